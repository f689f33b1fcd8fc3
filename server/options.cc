#include "server/options.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>

#include "server/config_section.h"

namespace fla {
namespace {

using Json = nlohmann::json;

// "host:port", "[v6]:port" or "unix:path" (for gRPC only).
void CheckAddress(const ConfigSection& section, const char* key, const std::string& address,
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

// Reads `models`, whose names and aliases must all differ.
std::vector<ModelOptions> ReadModels(ConfigSection& root, const ConfigText& text,
                                     const ModelFolders& folders) {
  const Json& json = root.Require("models", "a list of at least one model");
  if (!json.is_array() || json.empty()) root.Fail("models", "a list of at least one model", json);
  std::vector<ModelOptions> models;
  std::set<std::string> names;
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string path = "models[" + std::to_string(i) + "]";
    models.push_back(ReadModelOptions(ConfigSection(text, json[i], path), folders));
    const auto add = [&](const std::string& at, const std::string& name) {
      if (names.insert(name).second) return;
      root.Fail(path + at, "a name that no other model or alias has", Json(name));
    };
    add(".name", models.back().name);
    for (size_t k = 0; k < models.back().aliases.size(); ++k) {
      add(".aliases[" + std::to_string(k) + "]", models.back().aliases[k]);
    }
  }
  return models;
}

// True for a name that NameOf(Device) gives: a bound is found by it.
bool IsDeviceName(const std::string& name) {
  if (name == "cpu") return true;
  if (name.rfind("cuda:", 0) != 0) return false;
  const std::string index = name.substr(5);
  return !index.empty() && index.size() <= 3 && (index == "0" || index[0] != '0') &&
         index.find_first_not_of("0123456789") == std::string::npos;
}

// Bytes that the models of each device may take in all.
std::map<std::string, int64_t> ReadMemory(ConfigSection section, const Json& json) {
  std::map<std::string, int64_t> bytes;
  for (const auto& [device, _] : json.items()) {
    if (!IsDeviceName(device)) {
      section.FailWith(section.PathOf(device), "wanted \"cpu\" or \"cuda:N\", got another device");
    }
    int64_t mebibytes = 0;
    section.Read(device.c_str(), mebibytes, 1, int64_t{1} << 30);
    bytes[device] = mebibytes << 20;
  }
  return bytes;
}

LogOptions ReadLog(ConfigSection section) {
  LogOptions log;
  section.Read("level", log.level);
  static const std::set<std::string> kLevels = {"trace", "debug", "info", "warn", "error", "off"};
  if (kLevels.count(log.level) == 0) {
    section.Fail(section.PathOf("level"), "trace, debug, info, warn, error or off",
                 Json(log.level));
  }
  section.Read("requests", log.requests);
  section.Read("prompts", log.prompts);
  std::string format = "text";
  section.Read("format", format);
  if (format != "text" && format != "json") {
    section.Fail(section.PathOf("format"), "text or json", Json(format));
  }
  log.json = format == "json";
  section.RefuseOthers();
  return log;
}

}  // namespace

ServerOptions ParseServerOptions(std::string_view text, const std::filesystem::path& file) {
  const ConfigText config(text, file.string());
  ConfigSection root(config, config.json, "");
  ServerOptions options;

  root.Read("listen", options.listen);
  CheckAddress(root, "listen", options.listen, true);
  root.Read("metrics_listen", options.metrics_listen);
  if (!options.metrics_listen.empty()) {
    CheckAddress(root, "metrics_listen", options.metrics_listen, false);
  }
  root.Read("metrics_vllm_names", options.metrics_vllm_names);

  ModelFolders folders;
  folders.config = file.parent_path();
  std::string model_root;
  root.Read("model_root", model_root);
  if (!model_root.empty()) {
    folders.root = std::filesystem::absolute(folders.config / model_root).lexically_normal();
  }
  options.models = ReadModels(root, config, folders);
  options.default_model = options.models.front().name;
  root.Read("default_model", options.default_model);
  if (std::none_of(options.models.begin(), options.models.end(), [&](const ModelOptions& model) {
        return model.name == options.default_model;
      })) {
    root.Fail("default_model", "the name of one of the models", Json(options.default_model));
  }
  if (const Json* memory = root.Find("memory_mib")) {
    options.memory_bytes = ReadMemory(root.Child("memory_mib", *memory), *memory);
  }
  root.Read("checkpoint_poll_seconds", options.checkpoint_poll_seconds, 0.0, 86400.0);

  if (const Json* limits = root.Find("limits")) {
    options.limits = ReadLimits(root.Child("limits", *limits));
  }
  if (const Json* log = root.Find("log")) options.log = ReadLog(root.Child("log", *log));
  root.Read("drain_timeout_seconds", options.drain_timeout_seconds, 0.0, 86400.0);
  if (const Json* tls = root.Find("tls")) {
    options.tls = ReadTls(root.Child("tls", *tls), folders.config);
  }
  if (const Json* connections = root.Find("connections")) {
    options.connections = ReadConnections(root.Child("connections", *connections));
  }
  std::string api_keys;
  root.Read("api_keys", api_keys);
  if (!api_keys.empty()) options.api_keys = (folders.config / api_keys).lexically_normal();
  root.RefuseOthers();
  return options;
}

std::string ReadConfigFile(const std::filesystem::path& file) {
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  std::error_code error;
  if (!stream || std::filesystem::is_directory(file, error)) {
    throw std::runtime_error(file.string() + ": the file: wanted a readable file, got: " +
                             (errno != 0 ? std::strerror(errno) : "a folder"));
  }
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

ServerOptions LoadServerOptions(const std::filesystem::path& file) {
  return ParseServerOptions(ReadConfigFile(file), file);
}

}  // namespace fla
