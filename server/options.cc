#include "server/options.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "kernels/sampling.h"

namespace fla {
namespace {

using Json = nlohmann::json;

// Reads one JSON object key by key. A key that nobody asked for is an error.
class Section {
 public:
  // `path` is that of the object, empty for the whole file.
  Section(const Json& object, std::string file, std::string path)
      : object_(object), file_(std::move(file)), path_(std::move(path)) {
    if (!object_.is_object()) Fail(path_, "an object", object_);
  }

  // Each of these leaves `value` as it is when the key is absent.
  void Read(const char* key, std::string& value) {
    if (const Json* json = Find(key)) {
      if (!json->is_string()) Fail(PathOf(key), "a string", *json);
      value = json->get<std::string>();
    }
  }
  void Read(const char* key, bool& value) {
    if (const Json* json = Find(key)) {
      if (!json->is_boolean()) Fail(PathOf(key), "true or false", *json);
      value = json->get<bool>();
    }
  }
  void Read(const char* key, int& value, int64_t least, int64_t most) {
    if (const Json* json = Find(key)) {
      const std::string wanted =
          "an integer from " + std::to_string(least) + " to " + std::to_string(most);
      // Above int64 is stored as unsigned and would wrap.
      const bool fits = json->is_number_integer() &&
                        (!json->is_number_unsigned() ||
                         json->get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()});
      if (!fits || json->get<int64_t>() < least || json->get<int64_t>() > most) {
        Fail(PathOf(key), wanted, *json);
      }
      value = static_cast<int>(json->get<int64_t>());
    }
  }
  void Read(const char* key, double& value, double least, double most) {
    if (const Json* json = Find(key)) {
      if (!json->is_number() || !(json->get<double>() >= least && json->get<double>() <= most)) {
        Fail(PathOf(key), "a number from " + Json(least).dump() + " to " + Json(most).dump(),
             *json);
      }
      value = json->get<double>();
    }
  }

  // Null when the key is absent.
  const Json* Find(const char* key) {
    known_.insert(key);
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }
  const Json& Require(const char* key, const std::string& wanted) {
    const Json* json = Find(key);
    if (json == nullptr) Fail(PathOf(key), wanted, "nothing");
    return *json;
  }

  std::string PathOf(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
  }
  const std::string& file() const { return file_; }

  [[noreturn]] void Fail(const std::string& path, const std::string& wanted,
                         const Json& got) const {
    std::string text = got.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > 80) text = text.substr(0, 77) + "...";
    Fail(path, wanted, text);
  }
  [[noreturn]] void Fail(const std::string& path, const std::string& wanted,
                         const std::string& got) const {
    throw std::runtime_error(file_ + ": " + (path.empty() ? "the file" : path) + ": wanted " +
                             wanted + ", got " + got);
  }
  [[noreturn]] void Fail(const std::string& path, const std::string& wanted,
                         const char* got) const {
    Fail(path, wanted, std::string(got));
  }

  // Call when every key has been read.
  void RefuseOthers() const {
    for (const auto& item : object_.items()) {
      if (known_.count(item.key()) != 0) continue;
      std::string names;
      for (const std::string& name : known_) names += (names.empty() ? "" : ", ") + name;
      Fail(PathOf(item.key()), "one of the keys " + names, "an unknown key");
    }
  }

 private:
  const Json& object_;
  std::string file_;
  std::string path_;
  std::set<std::string> known_;
};

// Parses, refusing doubled keys, of which the parser would silently take the last.
Json Parse(std::string_view text, const std::string& file) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::string doubled;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed).second) {
      doubled = parsed.get<std::string>();
    }
    return true;
  };
  Json json;
  try {
    json = Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::parse_error& error) {
    throw std::runtime_error(file + ": the file: wanted JSON, got " + error.what());
  }
  if (!doubled.empty()) {
    throw std::runtime_error(file + ": " + doubled + ": wanted once, got twice in one object");
  }
  return json;
}

// "host:port", "[v6]:port" or "unix:path" (for gRPC only).
void CheckAddress(const Section& section, const char* key, const std::string& address,
                  bool unix_socket) {
  const char* wanted = unix_socket ? "\"host:port\" or \"unix:path\"" : "\"host:port\"";
  if (unix_socket && address.rfind("unix:", 0) == 0 && address.size() > 5) return;
  const size_t colon = address.rfind(':');
  const std::string port = colon == std::string::npos ? "" : address.substr(colon + 1);
  if (colon == 0 || port.empty() || port.size() > 5 ||
      port.find_first_not_of("0123456789") != std::string::npos || std::stoi(port) > 65535) {
    section.Fail(section.PathOf(key), wanted, Json(address));
  }
}

ModelOptions ReadModel(Section section, const std::filesystem::path& folder) {
  ModelOptions model;
  section.Require("name", "a string");
  section.Read("name", model.name);
  if (model.name.empty() || model.name.size() > 128) {
    section.Fail(section.PathOf("name"), "1 to 128 bytes", Json(model.name));
  }
  std::string path;
  section.Require("path", "a string");
  section.Read("path", path);
  if (path.empty()) section.Fail(section.PathOf("path"), "a folder", Json(path));
  model.path = (folder / path).lexically_normal();

  section.Read("device", model.device);
  const std::string index = model.device.rfind("cuda:", 0) == 0 ? model.device.substr(5) : "0";
  const bool is_index = !index.empty() && index.size() <= 3 &&
                        index.find_first_not_of("0123456789") == std::string::npos;
  if (!is_index || (model.device != "auto" && model.device != "cpu" && model.device != "cuda" &&
                    model.device.rfind("cuda:", 0) != 0)) {
    section.Fail(section.PathOf("device"), "\"auto\", \"cpu\", \"cuda\" or \"cuda:N\"",
                 Json(model.device));
  }

  std::string dtype = NameOf(model.dtype);
  section.Read("dtype", dtype);
  if (dtype != "f32" && dtype != "bf16") {
    section.Fail(section.PathOf("dtype"), "\"f32\" or \"bf16\"", Json(dtype));
  }
  model.dtype = dtype == "f32" ? DType::kF32 : DType::kBF16;

  section.Read("slots", model.slots, 1, 65536);
  section.Read("max_batch_tokens", model.max_batch_tokens, 1, 1 << 20);
  if (model.max_batch_tokens < model.slots) {
    section.Fail(section.PathOf("max_batch_tokens"),
                 "at least slots (" + std::to_string(model.slots) +
                     "), so that every sequence can take a step",
                 Json(model.max_batch_tokens));
  }
  section.RefuseOthers();
  return model;
}

Limits ReadLimits(Section section) {
  constexpr int64_t kMost = 1 << 30;
  Limits limits;
  section.Read("max_prompt_tokens", limits.max_prompt_tokens, 1, kMost);
  section.Read("max_new_tokens", limits.max_new_tokens, 0, kMost);
  limits.default_max_new_tokens = std::min(limits.default_max_new_tokens, limits.max_new_tokens);
  section.Read("default_max_new_tokens", limits.default_max_new_tokens, 0, limits.max_new_tokens);
  section.Read("max_stop_strings", limits.max_stop_strings, 0, 1024);
  section.Read("max_stop_string_bytes", limits.max_stop_string_bytes, 1, 65536);
  section.Read("max_stop_token_ids", limits.max_stop_token_ids, 0, 65536);
  section.Read("max_logprobs", limits.max_logprobs, 0, kMaxTopLogprobs);
  section.Read("max_logit_bias", limits.max_logit_bias, 0, 1 << 20);
  section.Read("max_queued_requests", limits.max_queued_requests, 1, 1 << 20);
  // More choices than the queue holds could never be taken.
  limits.max_n = std::min(limits.max_n, limits.max_queued_requests);
  section.Read("max_n", limits.max_n, 1, std::min(1024, limits.max_queued_requests));
  section.Read("max_unread_events", limits.max_unread_events, 1, 1 << 20);
  section.Read("max_message_bytes", limits.max_message_bytes, 1024, kMost);
  section.RefuseOthers();
  return limits;
}

LogOptions ReadLog(Section section) {
  LogOptions log;
  section.Read("level", log.level);
  static const std::set<std::string> kLevels = {"trace", "debug", "info", "warn", "error", "off"};
  if (kLevels.count(log.level) == 0) {
    section.Fail(section.PathOf("level"), "trace, debug, info, warn, error or off",
                 Json(log.level));
  }
  section.Read("requests", log.requests);
  section.RefuseOthers();
  return log;
}

}  // namespace

ServerOptions ParseServerOptions(std::string_view text, const std::filesystem::path& file) {
  const std::string name = file.string();
  const Json json = Parse(text, name);
  Section root(json, name, "");
  ServerOptions options;

  root.Read("listen", options.listen);
  CheckAddress(root, "listen", options.listen, true);
  root.Read("metrics_listen", options.metrics_listen);
  if (!options.metrics_listen.empty()) {
    CheckAddress(root, "metrics_listen", options.metrics_listen, false);
  }

  const Json& models = root.Require("models", "a list of at least one model");
  if (!models.is_array() || models.empty()) {
    root.Fail("models", "a list of at least one model", models);
  }
  std::set<std::string> names;
  for (size_t i = 0; i < models.size(); ++i) {
    const std::string path = "models[" + std::to_string(i) + "]";
    options.models.push_back(ReadModel(Section(models[i], name, path), file.parent_path()));
    if (!names.insert(options.models.back().name).second) {
      root.Fail(path + ".name", "a name that no other model has", Json(options.models.back().name));
    }
  }
  options.default_model = options.models.front().name;
  root.Read("default_model", options.default_model);
  if (names.count(options.default_model) == 0) {
    root.Fail("default_model", "the name of one of the models", Json(options.default_model));
  }

  if (const Json* limits = root.Find("limits")) {
    options.limits = ReadLimits(Section(*limits, name, "limits"));
  }
  if (const Json* log = root.Find("log")) options.log = ReadLog(Section(*log, name, "log"));
  root.Read("drain_timeout_seconds", options.drain_timeout_seconds, 0.0, 86400.0);
  root.RefuseOthers();
  return options;
}

ServerOptions LoadServerOptions(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream || std::filesystem::is_directory(file)) {
    throw std::runtime_error(file.string() + ": the file: wanted a readable file, got none");
  }
  const std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  return ParseServerOptions(text, file);
}

}  // namespace fla
