// What a server serves and how: one JSON file as validated values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "server/connection_options.h"
#include "server/limits.h"
#include "server/model_options.h"

namespace fla {

struct LogOptions {
  std::string level = "info";  // trace, debug, info, warn, error, off
  bool requests = true;        // one line a request
  bool prompts = false;        // with the prompt in it
  bool json = false;           // JSON lines, else text
};

struct ServerOptions {
  std::string listen = "127.0.0.1:50051";  // port 0: any free one
  std::string metrics_listen;              // empty: no /metrics
  bool metrics_vllm_names = false;         // there once more under vLLM's names
  std::vector<ModelOptions> models;        // >= 1, names and aliases differ
  std::string default_model;               // one of the names; the first if not said
  // Bytes that all models of a device ("cpu", "cuda:0") may take; one that is not named: what is
  // free.
  std::map<std::string, int64_t> memory_bytes;
  double checkpoint_poll_seconds = 5.0;  // how often checkpoints are looked at; 0: never
  Limits limits;
  double drain_timeout_seconds = 30.0;
  TlsOptions tls;
  ConnectionOptions connections;
  std::filesystem::path api_keys;  // a file as ApiKeys::Load reads it; empty: none are asked for
  LogOptions log;
};

// Throws std::runtime_error "file:line: key path: wanted ..., got ..." for a file that cannot be
// read or is no JSON, for an unknown, doubled or missing key, a wrong type, a value out of its
// range and a model's path that leads out of model_root. Does not look at what the paths name.
ServerOptions LoadServerOptions(const std::filesystem::path& file);

// The same for JSON text; `file` is for messages and for relative paths.
ServerOptions ParseServerOptions(std::string_view text, const std::filesystem::path& file);

// The text of a config file. Throws std::runtime_error "file: the file: wanted ..." where it cannot
// be read.
std::string ReadConfigFile(const std::filesystem::path& file);

}  // namespace fla
