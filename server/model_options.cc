#include "server/model_options.h"

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "kernels/state_replay.h"
#include "server/config_section.h"

namespace fla {
namespace {

using Json = nlohmann::json;

std::string ReadName(ConfigSection& section) {
  std::string name;
  section.Require("name", "a string");
  section.Read("name", name);
  if (name.empty() || name.size() > 128) {
    section.Fail(section.PathOf("name"), "1 to 128 bytes", Json(name));
  }
  return name;
}

std::vector<std::string> ReadAliases(ConfigSection& section) {
  std::vector<std::string> aliases;
  const Json* json = section.Find("aliases");
  if (json == nullptr) return aliases;
  const std::string path = section.PathOf("aliases");
  if (!json->is_array()) section.Fail(path, "a list of names", *json);
  for (const Json& alias : *json) {
    const std::string at = path + "[" + std::to_string(aliases.size()) + "]";
    if (!alias.is_string()) section.Fail(at, "a string", alias);
    aliases.push_back(alias.get<std::string>());
    if (aliases.back().empty() || aliases.back().size() > 128) {
      section.Fail(at, "1 to 128 bytes", alias);
    }
  }
  return aliases;
}

// True if `path` is `root` or below it. Both are absolute and normal.
bool IsWithin(const std::filesystem::path& path, const std::filesystem::path& root) {
  const auto [at, _] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return at == root.end() || (at->empty() && std::next(at) == root.end());
}

// With its symbolic links followed.
std::filesystem::path Followed(const ConfigSection& section, const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::path leads_to = std::filesystem::weakly_canonical(path, error);
  if (error) {
    section.FailWith(section.PathOf("path"), "wanted a folder that can be looked for, got " +
                                                 path.string() + ": " + error.message());
  }
  return leads_to;
}

std::filesystem::path ReadPath(ConfigSection& section, const ModelFolders& folders) {
  std::string text;
  section.Require("path", "a string");
  section.Read("path", text);
  if (text.empty()) section.Fail(section.PathOf("path"), "a folder", Json(text));
  if (folders.root.empty()) return (folders.config / text).lexically_normal();
  std::filesystem::path path = (folders.root / text).lexically_normal();
  // Both as written and where its symbolic links lead.
  if (!IsWithin(path, folders.root.lexically_normal()) ||
      !IsWithin(Followed(section, path), Followed(section, folders.root))) {
    section.Fail(section.PathOf("path"),
                 "a folder within model_root (" + folders.root.string() + ")", Json(text));
  }
  return path;
}

std::string ReadDevice(ConfigSection& section) {
  std::string device = "auto";
  section.Read("device", device);
  const std::string index = device.rfind("cuda:", 0) == 0 ? device.substr(5) : "0";
  const bool is_index = !index.empty() && index.size() <= 3 &&
                        index.find_first_not_of("0123456789") == std::string::npos;
  if (!is_index ||
      (device != "auto" && device != "cpu" && device != "cuda" && device.rfind("cuda:", 0) != 0)) {
    section.Fail(section.PathOf("device"), "\"auto\", \"cpu\", \"cuda\" or \"cuda:N\"",
                 Json(device));
  }
  return device;
}

DType ReadDType(ConfigSection& section, const char* key) {
  std::string dtype = "f32";
  section.Read(key, dtype);
  if (dtype != "f32" && dtype != "bf16") {
    section.Fail(section.PathOf(key), "\"f32\" or \"bf16\"", Json(dtype));
  }
  return dtype == "f32" ? DType::kF32 : DType::kBF16;
}

// After dtype, beside which it stands.
std::optional<DType> ReadWeightDType(ConfigSection& section, DType dtype) {
  if (section.Find("weight_dtype") == nullptr) return {};
  std::string name;
  section.Read("weight_dtype", name);
  if (name == NameOf(dtype)) return dtype;
  if (dtype == DType::kBF16 && name == NameOf(DType::kF8E4M3)) return DType::kF8E4M3;
  section.Fail(section.PathOf("weight_dtype"),
               dtype == DType::kBF16 ? "\"bf16\", as dtype, or \"fp8_e4m3\""
                                     : "\"f32\", as dtype (\"fp8_e4m3\" stands beside \"bf16\")",
               Json(name));
}

template <typename Number>
void ReadOptional(ConfigSection& section, const char* key, std::optional<Number>& value,
                  double least, double most) {
  if (section.Find(key) == nullptr) return;
  double number = 0;
  section.Read(key, number, least, most);
  value = static_cast<Number>(number);
}

GenerationDefaults ReadSampling(ConfigSection section) {
  GenerationDefaults sampling;
  ReadOptional(section, "temperature", sampling.temperature, 0, 1e6);
  if (section.Find("top_k") != nullptr) {
    int top_k = 0;
    section.Read("top_k", top_k, 0, 1 << 30);
    sampling.top_k = top_k;
  }
  ReadOptional(section, "top_p", sampling.top_p, 1e-6, 1);
  ReadOptional(section, "min_p", sampling.min_p, 0, 1);
  ReadOptional(section, "repetition_penalty", sampling.repetition_penalty, 1e-6, 1e6);
  section.RefuseOthers();
  return sampling;
}

}  // namespace

void RequireWithinRoot(const ModelOptions& model) {
  if (model.root.empty()) return;
  const std::filesystem::path root = std::filesystem::weakly_canonical(model.root);
  std::error_code error;
  for (std::filesystem::directory_iterator entry(model.path, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::filesystem::path leads_to = std::filesystem::weakly_canonical(entry->path());
    if (!IsWithin(leads_to, root)) {
      throw std::runtime_error(entry->path().string() + ": wanted a file within model_root (" +
                               root.string() + "), got a link to " + leads_to.string());
    }
  }
}

ModelOptions ReadModelOptions(ConfigSection section, const ModelFolders& folders) {
  ModelOptions model;
  model.name = ReadName(section);
  model.aliases = ReadAliases(section);
  model.path = ReadPath(section, folders);
  model.root = folders.root;
  model.device = ReadDevice(section);
  model.dtype = ReadDType(section, "dtype");
  model.weight_dtype = ReadWeightDType(section, model.dtype);
  model.state_dtype = ReadDType(section, "state_dtype");
  if (model.state_dtype == DType::kBF16 && (model.dtype != DType::kBF16 || model.device == "cpu")) {
    section.Fail(section.PathOf("state_dtype"), "\"f32\", unless dtype is bf16, on a GPU",
                 Json("bf16"));
  }
  section.Read("state_replay", model.state_replay, 0, kMaxReplaySteps);
  if (0 < model.state_replay && model.state_replay < kMinReplaySteps) {
    section.Fail(section.PathOf("state_replay"), "0, or 2 to 8 steps", Json(model.state_replay));
  }
  if (model.state_replay > 0 && (model.state_dtype != DType::kF32 || model.device == "cpu")) {
    section.Fail(section.PathOf("state_replay"), "0, unless states are f32, on a GPU",
                 Json(model.state_replay));
  }
  section.Read("slots", model.slots, 1, 65536);
  section.Read("max_batch_tokens", model.max_batch_tokens, 1, 1 << 20);
  if (model.max_batch_tokens > 0 && model.max_batch_tokens < model.slots) {
    section.Fail(section.PathOf("max_batch_tokens"),
                 "at least slots (" + std::to_string(model.slots) +
                     "), so that every sequence can take a step",
                 Json(model.max_batch_tokens));
  }
  section.Read("max_prefill_tokens", model.max_prefill_tokens, 1, 1 << 20);
  if (model.max_prefill_tokens > 0 && model.max_prefill_tokens < model.max_batch_tokens) {
    section.Fail(section.PathOf("max_prefill_tokens"),
                 "at least max_batch_tokens (" + std::to_string(model.max_batch_tokens) + ")",
                 Json(model.max_prefill_tokens));
  }
  if (const Json* sampling = section.Find("sampling")) {
    model.sampling = ReadSampling(section.Child("sampling", *sampling));
  }

  std::string load = "preload";
  section.Read("load", load);
  if (load != "preload" && load != "on_demand") {
    section.Fail(section.PathOf("load"), "\"preload\" or \"on_demand\"", Json(load));
  }
  model.preload = model.pinned = load == "preload";
  section.Read("pinned", model.pinned);

  std::string when_full = "refuse";
  section.Read("when_full", when_full);
  if (when_full != "refuse" && when_full != "drain_then_load") {
    section.Fail(section.PathOf("when_full"), "\"refuse\" or \"drain_then_load\"", Json(when_full));
  }
  if (when_full == "drain_then_load") model.when_full = WhenFull::kDrainThenLoad;
  section.RefuseOthers();
  return model;
}

}  // namespace fla
