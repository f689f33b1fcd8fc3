#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

#include "model/architectures.h"
#include "model/config_reader.h"
#include "model/json_file.h"

namespace fla {
namespace {

constexpr int64_t kMaxStateElements = int64_t{1} << 48;
constexpr int kMaxSize = 1 << 24;  // of any one dimension; keeps products within 64 bits

const Architecture& FindArchitecture(const ConfigReader& config) {
  const std::string model_type = config.String("model_type", "");
  std::string known;
  for (const Architecture& architecture : Architectures()) {
    if (architecture.model_type == model_type) return architecture;
    known += (known.empty() ? "" : ", ") + std::string(architecture.model_type);
  }
  config.FailValue("model_type", "one of " + known);
}

void RefuseUnsupported(const ConfigReader& config, std::string_view model_type) {
  for (const RefusedOption& option : RefusedOptions()) {
    const std::string key(option.key);
    if (!option.model_type.empty() && option.model_type != model_type) continue;
    if (config.Missing(key) || config.Raw(key).dump() == option.served) continue;
    if (!option.only_with.empty() && !config.Bool(std::string(option.only_with), false)) continue;
    config.FailValue(
        key, std::string(option.served) + " (not supported: " + std::string(option.reason) + ")");
  }
}

int BlockSize(const ConfigReader& config, const nlohmann::json& value) {
  if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > kMaxSize) {
    config.FailValue("quantization_config", "weight_block_size of two positive integers");
  }
  return value.get<int>();
}

// Weights in F8_E4M3 with scales, as published checkpoints have them: transformers' "fp8"
// (weight_block_size), "compressed-tensors" of the format float-quantized, "modelopt" FP8.
Quantization ReadQuantization(const ConfigReader& config) {
  Quantization quantization;
  if (config.Missing("quantization_config")) return quantization;
  const nlohmann::json& value = config.Raw("quantization_config");
  const auto text = [&](const char* key) {
    return value.is_object() && value.contains(key) && value[key].is_string()
               ? value[key].get<std::string>()
               : std::string();
  };
  const std::string method = text("quant_method");
  const bool known = (method == "fp8" && (text("fmt").empty() || text("fmt") == "e4m3")) ||
                     (method == "compressed-tensors" && text("format") == "float-quantized") ||
                     (method == "modelopt" && text("quant_algo") == "FP8");
  if (!known) {
    config.FailValue("quantization_config",
                     "quant_method \"fp8\" (fmt e4m3), \"compressed-tensors\" (format "
                     "float-quantized) or \"modelopt\" (quant_algo FP8)");
  }
  quantization.scaled = true;
  if (const auto block = value.find("weight_block_size");
      block != value.end() && !block->is_null()) {
    if (!block->is_array() || block->size() != 2) BlockSize(config, nullptr);
    quantization.block = {BlockSize(config, (*block)[0]), BlockSize(config, (*block)[1])};
  }
  return quantization;
}

void RequireSize(const ConfigReader& config, const std::string& what, int64_t size) {
  if (size < 1 || size > kMaxSize) {
    config.Fail(what, "1 to " + std::to_string(kMaxSize), std::to_string(size));
  }
}

// The size of the MLP as the library derives it where it is not given.
int IntermediateSize(const ConfigReader& config, int hidden_size, int default_ratio) {
  if (const auto size = config.OptionalInt("intermediate_size")) return *size;
  const int ratio = config.PositiveInt("hidden_ratio", default_ratio);
  const int64_t size = static_cast<int64_t>(hidden_size) * ratio * 2 / 3;
  RequireSize(config, "hidden_ratio * hidden_size", size);
  return static_cast<int>(256 * ((size + 255) / 256));
}

// A token id, a list of them or null.
std::vector<int> TokenIds(const ConfigReader& config, const std::string& key, int vocab_size) {
  if (config.Missing(key)) return {};
  const nlohmann::json& value = config.Raw(key);
  std::vector<int> ids;
  for (const nlohmann::json& id : value.is_array() ? value : nlohmann::json::array({value})) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size) {
      config.FailValue(key, "token ids in [0, " + std::to_string(vocab_size) + ")");
    }
    ids.push_back(id.get<int>());
  }
  return ids;
}

// Returns what the file itself says of eos_token_id.
std::vector<int> ReadGeneration(const std::filesystem::path& path, ModelConfig& model) {
  if (!std::filesystem::exists(path)) return {};
  const nlohmann::json json = ReadJsonFile(path);
  if (!json.is_object()) throw std::runtime_error(path.string() + ": wanted a JSON object");
  const ConfigReader config(path.string(), json);
  GenerationDefaults& defaults = model.generation;
  defaults.temperature = config.OptionalFloat("temperature");
  defaults.top_k = config.OptionalInt("top_k");
  defaults.top_p = config.OptionalFloat("top_p");
  defaults.min_p = config.OptionalFloat("min_p");
  defaults.repetition_penalty = config.OptionalFloat("repetition_penalty");
  if (!config.Missing("do_sample") && !config.Bool("do_sample", false)) defaults.temperature = 0.0f;
  if (defaults.temperature.value_or(1.0f) < 0) config.FailValue("temperature", "at least 0");
  if (defaults.top_k.value_or(0) < 0) config.FailValue("top_k", "at least 0");
  const float top_p = defaults.top_p.value_or(1.0f);
  if (!(top_p > 0 && top_p <= 1)) config.FailValue("top_p", "in (0, 1]");
  const float min_p = defaults.min_p.value_or(0.0f);
  if (!(min_p >= 0 && min_p <= 1)) config.FailValue("min_p", "in [0, 1]");
  if (!(defaults.repetition_penalty.value_or(1.0f) > 0)) {
    config.FailValue("repetition_penalty", "above 0");
  }
  std::vector<int> eos = TokenIds(config, "eos_token_id", model.vocab_size);
  std::set<int> all(model.eos_token_ids.begin(), model.eos_token_ids.end());
  all.insert(eos.begin(), eos.end());
  model.eos_token_ids.assign(all.begin(), all.end());
  return eos;
}

// All of a model but its mixer and its tokens, as flash-linear-attention writes it.
ModelConfig ReadLibrarySizes(const ConfigReader& config, const Architecture& architecture) {
  config.Choice("hidden_act", "swish");
  ModelConfig model;
  model.vocab_size = config.Int("vocab_size", 32000);
  model.hidden_size = config.Int("hidden_size", 2048);
  model.num_layers = config.Int("num_hidden_layers", architecture.num_layers);
  RequireSize(config, "vocab_size", model.vocab_size);
  RequireSize(config, "hidden_size", model.hidden_size);
  RequireSize(config, "num_hidden_layers", model.num_layers);
  model.intermediate_size = IntermediateSize(config, model.hidden_size, architecture.hidden_ratio);
  RequireSize(config, "intermediate_size", model.intermediate_size);
  model.norm_eps = config.Float("norm_eps", 1e-6f);
  if (!(model.norm_eps >= 0)) config.FailValue("norm_eps", "at least 0");
  model.tie_word_embeddings = config.Bool("tie_word_embeddings", false);
  return model;
}

Pooling ReadPooling(const ConfigReader& config) {
  const std::string output = config.Choice("output", "last");
  return output == "last" ? Pooling::kLast : output == "all" ? Pooling::kAll : Pooling::kMean;
}

// The same as the options of Edifice's builders.
ModelConfig ReadEdificeSizes(const ConfigReader& config, const Architecture& architecture) {
  ModelConfig model;
  model.block_name = architecture.block_name;
  model.norm = NormKind::kLayer;
  model.feed_forward = FeedForwardKind::kGelu;
  model.norm_eps = 1e-5f;
  if (config.Missing("embed_dim")) config.FailValue("embed_dim", "the size of the input vectors");
  model.embed_dim = config.Int("embed_dim", 0);
  model.hidden_size = config.Int("hidden_size", 256);
  model.num_layers = config.Int("num_layers", architecture.num_layers);
  model.vocab_size = config.Missing("vocab_size") ? 0 : config.PositiveInt("vocab_size", 0);
  RequireSize(config, "embed_dim", model.embed_dim);
  RequireSize(config, "hidden_size", model.hidden_size);
  RequireSize(config, "num_layers", model.num_layers);
  if (model.vocab_size > 0) RequireSize(config, "vocab_size", model.vocab_size);
  const int64_t inner = int64_t{architecture.hidden_ratio} * model.hidden_size;
  RequireSize(config, "4 * hidden_size", inner);
  model.intermediate_size = static_cast<int>(inner);
  model.pooling = ReadPooling(config);
  if (config.Bool("tie_word_embeddings", false)) config.FailValue("tie_word_embeddings", "false");
  return model;
}

nlohmann::json ReadObject(const std::filesystem::path& path) {
  nlohmann::json json = ReadJsonFile(path);
  if (!json.is_object()) throw std::runtime_error(path.string() + ": wanted a JSON object");
  return json;
}

// All that config.json says.
ModelConfig ReadModelConfig(const std::string& file, const nlohmann::json& json) {
  const ConfigReader any(file, json);
  const Architecture& architecture = FindArchitecture(any);
  RefuseUnsupported(any, architecture.model_type);
  const ConfigReader config(file, json, OptionsOf(architecture));

  ModelConfig model = architecture.block_name.empty() ? ReadLibrarySizes(config, architecture)
                                                      : ReadEdificeSizes(config, architecture);
  model.model_type = architecture.model_type;
  model.quantization = ReadQuantization(config);

  model.mixer = architecture.read_mixer(config, model.hidden_size);
  model.mixer.norm_eps = model.norm_eps;
  const MixerSpec& mixer = model.mixer;
  RequireSize(config, "num_heads", mixer.heads);
  RequireSize(config, "size of q", static_cast<int64_t>(mixer.q_heads) * mixer.head_k_dim);
  RequireSize(config, "size of the output", static_cast<int64_t>(mixer.heads) * mixer.head_v_dim);
  RequireSize(config, "head size of q and k", mixer.state_k_dim());
  const double state =
      static_cast<double>(model.num_layers) * mixer.heads * mixer.state_k_dim() * mixer.head_v_dim;
  if (state > kMaxStateElements) {
    config.Fail("size of a state", "at most " + std::to_string(kMaxStateElements) + " elements",
                std::to_string(state));
  }

  model.norm_first = config.Knows("norm_first") && config.Bool("norm_first", false);
  const std::vector<int> bos = TokenIds(config, "bos_token_id", model.vocab_size);
  if (!bos.empty()) model.bos_token_id = bos.front();
  model.eos_token_ids = TokenIds(config, "eos_token_id", model.vocab_size);
  return model;
}

// Keys of config.json that no table has.
std::vector<std::string> UnknownKeys(const nlohmann::json& json, std::string_view model_type) {
  std::set<std::string_view> known(IgnoredKeys().begin(), IgnoredKeys().end());
  for (const RefusedOption& option : RefusedOptions()) known.insert(option.key);
  for (const Architecture& architecture : Architectures()) {
    if (architecture.model_type != model_type) continue;
    for (const std::span<const ConfigOption> options : OptionsOf(architecture)) {
      for (const ConfigOption& option : options) known.insert(option.key);
    }
  }
  std::vector<std::string> unknown;
  for (const auto& [key, value] : json.items()) {
    if (known.count(key) == 0 && !value.is_null()) unknown.push_back(key);
  }
  return unknown;
}

}  // namespace

ModelConfig LoadModelConfig(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  ModelConfig model = ReadModelConfig(path.string(), ReadObject(path));
  ReadGeneration(folder / "generation_config.json", model);
  return model;
}

ConfigFindings ExamineModelConfig(const std::filesystem::path& folder) {
  ConfigFindings findings;
  const std::filesystem::path path = folder / "config.json";
  nlohmann::json json;
  try {
    json = ReadObject(path);
  } catch (const std::runtime_error& error) {
    findings.problems.emplace_back(error.what());
    return findings;
  }
  if (const auto length = json.find("max_position_embeddings");
      length != json.end() && length->is_number_unsigned() && *length <= kMaxSize) {
    findings.max_position_embeddings = length->get<int>();
  }
  while (!findings.config) {
    try {
      findings.config = ReadModelConfig(path.string(), json);
    } catch (const ConfigError& error) {
      findings.problems.emplace_back(error.what());
      if (json.erase(error.key()) == 0) return findings;  // of several keys together
    }
  }
  findings.whole = findings.problems.empty();
  findings.unknown_keys = UnknownKeys(json, findings.config->model_type);
  findings.eos_of_config = findings.config->eos_token_ids;
  try {
    findings.eos_of_generation =
        ReadGeneration(folder / "generation_config.json", *findings.config);
  } catch (const std::runtime_error& error) {
    findings.problems.emplace_back(error.what());
  }
  return findings;
}

std::vector<std::string> SupportedModelTypes() {
  std::vector<std::string> types;
  for (const Architecture& architecture : Architectures()) {
    types.emplace_back(architecture.model_type);
  }
  return types;
}

}  // namespace fla
