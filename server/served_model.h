// One version of a model: what it takes to load it, and what is there once it is loaded.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "model/chat/chat_templates.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "server/engine.h"
#include "server/metrics.h"
#include "server/options.h"

namespace fla {

// How far a load is.
//
// Thread safety: the loader writes, any thread may read and set `abandoned`.
struct LoadProgress {
  std::string name;
  std::string version;
  std::atomic<double> fraction = 0;     // 0 to 1 of the checkpoint's bytes
  std::atomic<bool> warming = false;    // loaded, first steps running
  std::atomic<bool> abandoned = false;  // the load is to end with LoadAbandoned
};

// A load that nobody wants any more.
class LoadAbandoned : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One loaded version of one model.
//
// Thread safety: immutable but for `last_used` and `engine`, whose methods are safe.
struct ServedModel {
  ModelOptions options;  // as it was loaded
  std::string version;
  std::string key;     // LoadKey
  std::string device;  // "cpu", "cuda:0"
  double load_seconds = 0;
  int64_t state_bytes_per_slot = 0;
  int64_t bytes = 0;  // on the device: weights and states
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const chat::ChatTemplates> chat;
  ModelMetrics* metrics = nullptr;
  std::unique_ptr<Engine> engine;
  mutable std::atomic<Clock::rep> last_used = 0;  // when a request last asked for it

  // For model_info.
  ModelLabels labels() const;
};

// A model's part in a request: holding it keeps that version loaded. `options` are those of the
// config that is live, `served` may be of an earlier one that needed no other load.
struct ModelLease {
  std::shared_ptr<const ModelOptions> options;
  std::shared_ptr<const ServedModel> served;
};

// The defaults of a request's sampling: the config's, then the checkpoint's.
GenerationDefaults SamplingDefaults(const ModelLease& lease);

// Throws what is wrong with a model's files or device, without reading weights: config.json,
// tokenizer, the sizes of the safetensors files, the names and shapes of their tensors.
void CheckModel(const ModelOptions& options);

// Bytes that a model will take on its device at least: weights and states. Throws as CheckModel.
int64_t FootprintOf(const ModelOptions& options);

// Loads and warms a model: runs a prompt and a step, whose logits must be finite. Throws
// std::runtime_error, DeviceError or LoadAbandoned.
std::unique_ptr<ServedModel> LoadServedModel(const ModelOptions& options, const Limits& limits,
                                             Metrics& metrics, LoadProgress& progress);

}  // namespace fla
