// The models of a server, by name.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/tokenizer.h"
#include "server/engine.h"
#include "server/metrics.h"
#include "server/options.h"

namespace fla {

// One model that is being served.
//
// Thread safety: immutable but for `engine`, whose methods are safe.
struct ServedModel {
  ModelOptions options;
  std::string device;  // "cpu", "cuda:0"
  double load_seconds = 0;
  int64_t state_bytes_per_slot = 0;
  std::shared_ptr<const Tokenizer> tokenizer;
  ModelMetrics* metrics = nullptr;
  std::unique_ptr<Engine> engine;
};

// Throws what is wrong with a model's config.json, tokenizer or device, without reading weights.
void CheckModel(const ModelOptions& options);

// Thread safety: const methods may be called from any thread.
class ModelRegistry {
 public:
  // Loads all models of the options, one after the other, logging progress. Throws
  // std::runtime_error or DeviceError, the message led by the model's name. `metrics` must outlive
  // this.
  ModelRegistry(const ServerOptions& options, Metrics& metrics);

  // The model of that name, the default model for an empty one; NOT_FOUND names those there are.
  absl::StatusOr<ServedModel*> Find(const std::string& name) const;

  const std::vector<std::unique_ptr<ServedModel>>& models() const { return models_; }
  const std::string& default_model() const { return default_model_; }

  // True while no engine has failed.
  bool Healthy() const;
  // Drains all engines at once (see Engine::Drain); true if nothing had to be cut off.
  bool Drain(Clock::time_point deadline) const;

 private:
  std::string default_model_;
  std::vector<std::unique_ptr<ServedModel>> models_;
};

}  // namespace fla
