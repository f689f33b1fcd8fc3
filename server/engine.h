// The engine: one thread that owns a model, its states and every running sequence.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "model/model.h"
#include "model/state_pool.h"
#include "model/tokenizer.h"
#include "server/model_metrics.h"
#include "server/request.h"

namespace fla {

struct EngineOptions {
  int slots = 64;              // sequences that run at once
  int max_batch_tokens = 512;  // tokens of one step, decode rows and prompt pieces together
  int max_prefill_tokens = 0;  // of one in which nothing decodes, where that is more
  StateFormat states;
  bool launch_ahead = false;  // see ContinuousBatch: for a device that runs behind the host
  int max_queued_requests = 256;
  int64_t max_queued_tokens = 1 << 20;  // of the prompts that wait
};

// Runs continuous batching: requests join and leave between steps. Each tick drops cancelled and
// expired sequences, admits queued requests while slots are free, lets the scheduler compose one
// batch (decode rows first, then prompt pieces under the token budget), runs the model, samples,
// and delivers events.
//
// Thread safety: all public methods may be called from any thread.
class Engine {
 public:
  // Takes the model over and starts the thread. `metrics` must outlive the engine.
  Engine(std::unique_ptr<Model> model, std::shared_ptr<const Tokenizer> tokenizer,
         const EngineOptions& options, ModelMetrics& metrics);
  // Ends what still runs (UNAVAILABLE) and joins the thread.
  ~Engine();

  // Queues all choices of a client's request, or none: RESOURCE_EXHAUSTED, with a hint when to
  // retry (RetryAfterOf), when the queue is full, UNAVAILABLE when draining. After OK every choice
  // gets exactly one event with a finish.
  absl::Status Submit(std::vector<Request> choices);

  // Wakes the engine after a request's `cancelled` flag was set, so that the slot is freed soon.
  void NotifyCancelled();

  // Refuses new requests from now on and waits until all are done or `deadline` has passed; then
  // ends the rest with UNAVAILABLE. Returns true if nothing had to be cut off.
  bool Drain(Clock::time_point deadline);

  // False once the engine has failed (a device fault): it then ends everything with INTERNAL.
  bool healthy() const;

  int slots_total() const;
  int slots_used() const;
  const ModelConfig& config() const;
  const Model& model() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace fla
