// A checkpoint's config.json and generation_config.json as validated values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/mixer_spec.h"

namespace fla {

// Sampling defaults that a checkpoint brings (generation_config.json); unset: not said there.
// do_sample false becomes temperature 0.
struct GenerationDefaults {
  std::optional<float> temperature;
  std::optional<int> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
};

// What of a sequence's hidden states is its embedding.
enum class Pooling : uint8_t { kLast, kMean, kAll };

enum class NormKind : uint8_t { kRms, kLayer };
enum class FeedForwardKind : uint8_t { kSwiGlu, kGelu };

// How 8-bit weights are stored, by config.json's quantization_config.
struct Quantization {
  bool scaled = false;                  // every F8_E4M3 tensor has a scale
  std::pair<int, int> block{128, 128};  // rows and columns that a scale of blocks has for one value
};

struct ModelConfig {
  std::string model_type;
  int vocab_size = 0;
  int hidden_size = 0;  // D
  int num_layers = 0;
  int intermediate_size = 0;
  float norm_eps = 1e-6f;
  std::string block_name;  // of Edifice's layers, "fla_block"; empty for the library's models
  NormKind norm = NormKind::kRms;
  FeedForwardKind feed_forward = FeedForwardKind::kSwiGlu;
  bool tie_word_embeddings = false;
  bool norm_first = false;  // written until February 2025: the norms have other names
  Quantization quantization;
  MixerSpec mixer;
  int bos_token_id = -1;           // -1: none
  std::vector<int> eos_token_ids;  // of config.json and generation_config.json
  GenerationDefaults generation;
  int embed_dim = 0;                 // of inputs that are vectors; 0: it takes tokens alone
  Pooling pooling = Pooling::kLast;  // of an embedding, where a request does not say
};

// Reads the two files of a checkpoint folder; generation_config.json may be absent. Throws
// std::runtime_error "file: what: wanted, got" for a missing or malformed file, a model_type that
// is not supported (naming those that are), an option that is not supported (hybrid `attn`
// layers, attnres, ...), or sizes that do not fit together.
ModelConfig LoadModelConfig(const std::filesystem::path& folder);

// What LoadModelConfig thinks of a folder, all of it: after a problem the file is read on as if the
// key that has it were not there.
struct ConfigFindings {
  std::optional<ModelConfig> config;      // where what is left of the file describes a model
  bool whole = false;                     // nothing of config.json had to be left out for that
  std::vector<std::string> problems;      // what LoadModelConfig would throw
  std::vector<std::string> unknown_keys;  // of config.json, that nobody here reads or knows
  std::vector<int> eos_of_config, eos_of_generation;  // which file says which of config's
  std::optional<int> max_position_embeddings;  // the length that it was trained for; no bound here
};
ConfigFindings ExamineModelConfig(const std::filesystem::path& folder);

// The model_types that LoadModelConfig accepts.
std::vector<std::string> SupportedModelTypes();

}  // namespace fla
