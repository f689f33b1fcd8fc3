// What can be told of a checkpoint without loading it: what it is, what it costs, and everything
// that keeps it from being served.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/model.h"
#include "model/tokenizer.h"

namespace fla {

struct CheckpointReport {
  struct Stored {  // tensors of one dtype
    int tensors = 0;
    int64_t elements = 0;
    int64_t bytes = 0;
  };

  struct EndToken {  // that begins or ends texts
    int id;
    std::vector<std::string> files;  // that say so
  };
  struct TokenizerFacts {
    TokenizerOrigin origin;
    int vocab_size;
  };

  std::filesystem::path folder;
  std::vector<std::string> problems;  // each of them keeps it from being served
  std::vector<std::string> notes;     // what does not, but may surprise

  std::optional<ModelConfig> config;           // where config.json describes a model
  std::map<std::string, Stored> stored;        // by dtype, "BF16"; empty where files are broken
  std::optional<WeightSizes> as_f32, as_bf16;  // where both of the above are there
  int64_t state_bytes_per_slot = 0;            // in f32
  std::optional<TokenizerFacts> tokenizer;     // where one could be read
  std::vector<EndToken> bos, eos;              // any eos ends what is generated
  std::map<std::string, std::string> chat_templates;  // the file of each, by name
  std::optional<int> max_position_embeddings;
};

// Never throws for what is in the folder.
CheckpointReport ExamineCheckpoint(const std::filesystem::path& folder);

// A table of the models and options that can be served, in Markdown: the tables that the code
// reads config.json by, made readable.
std::string SupportTable();

}  // namespace fla
