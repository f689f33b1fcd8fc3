// What Prometheus reads about one model: counters, gauges and histograms, label `model`.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "server/request.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
class Registry;
}  // namespace prometheus

namespace fla {

// Why a request was not queued.
enum class Rejection { kQueueFull, kDraining, kInvalid, kFailed, kTooManyCalls };

// What memory on a device holds.
enum class MemoryKind { kWeights, kStates, kWorkspace };

// How a new version of a model came to serve, or did not.
enum class SwapResult { kSuccess, kFailure };

// Labels of model_info.
struct ModelLabels {
  std::string model_type;
  std::string device;
  std::string dtype;
  int64_t parameters = 0;
  std::string version;  // of the checkpoint; empty where there is none
};

// What one engine adds to a gauge of its model. While a model is swapped two engines serve it; the
// gauge shows the sum of their parts, and a part ends with its owner.
//
// Thread safety: all methods may be called from any thread.
class GaugePart {
 public:
  // The gauge must outlive the part.
  explicit GaugePart(prometheus::Gauge& gauge) : gauge_(gauge) {}
  ~GaugePart() { Set(0); }
  GaugePart(const GaugePart&) = delete;
  GaugePart& operator=(const GaugePart&) = delete;

  void Set(int64_t value);

 private:
  prometheus::Gauge& gauge_;
  std::atomic<int64_t> value_ = 0;
};

// The metrics of one model. A "request" is one choice of a client's request.
//
// Thread safety: all methods may be called from any thread.
class ModelMetrics {
 public:
  ModelMetrics(prometheus::Registry& registry, const std::string& model);

  // Of each engine that serves the model, by GaugePart: requests that hold a slot, requests in the
  // queue and how many it takes, slots in use and in all.
  prometheus::Gauge& running() { return *running_; }
  prometheus::Gauge& waiting() { return *waiting_; }
  prometheus::Gauge& waiting_limit() { return *waiting_limit_; }
  prometheus::Gauge& slots_used() { return *slots_used_; }
  prometheus::Gauge& slots_total() { return *slots_total_; }
  // Bytes on a device ("cpu", "cuda:0").
  prometheus::Gauge& memory(const std::string& device, MemoryKind kind);

  // A client's request of `choices` choices that was not queued.
  void CountRejection(Rejection reason, int choices = 1);
  void CountPromptTokens(int tokens);      // prompt tokens that went through the model
  void CountGenerationTokens(int tokens);  // sampled tokens
  void CountNonfinite();                   // logits or hidden states with a NaN or an infinity

  // One step of the model over `decode` running sequences and `prefill` tokens of prompts.
  void ObserveBatch(int decode, int prefill);
  void ObserveStep(Clock::duration time);
  // From the end of a step's sampling to the beginning of the next step, by the device's clock.
  void ObserveDeviceGap(Clock::duration time);
  void ObserveFirstToken(Clock::duration since_received);
  void ObserveInterToken(Clock::duration since_previous_token);
  // Counts the finish by its reason ("stop", "length", "cancelled", "deadline", "embedded",
  // "unavailable" or "error") and observes the request's tokens and its total, queue, prefill and
  // decode time, as far as it came.
  void ObserveFinish(const Finish& finish);

  // Once a load has ended well, the first one too: the model is serving, and the labels replace
  // those of an earlier load.
  void SetLoaded(double load_seconds, const ModelLabels& labels);
  // Once the model has gone for good: no model_info any more.
  void SetUnloaded();
  // Whether requests are taken: false after a device fault and while draining.
  void SetServing(bool serving);
  void CountSwap(SwapResult result);

 private:
  void RemoveInfo();  // with info_mutex_ held

  prometheus::Registry& registry_;
  std::string model_;
  prometheus::Gauge* running_;
  prometheus::Gauge* waiting_;
  prometheus::Gauge* waiting_limit_;
  prometheus::Gauge* slots_used_;
  prometheus::Gauge* slots_total_;
  prometheus::Gauge* load_seconds_;
  prometheus::Gauge* serving_;
  std::array<prometheus::Counter*, 7> finished_;    // by outcome, see model_metrics.cc
  std::array<prometheus::Counter*, 5> rejections_;  // by Rejection
  std::array<prometheus::Counter*, 2> swaps_;       // by SwapResult
  prometheus::Counter* prompt_tokens_;
  prometheus::Counter* generation_tokens_;
  prometheus::Counter* nonfinite_;
  prometheus::Histogram* batch_tokens_;
  prometheus::Histogram* batch_decode_;
  prometheus::Histogram* step_time_;
  prometheus::Histogram* device_gap_;
  prometheus::Histogram* first_token_;
  prometheus::Histogram* inter_token_;
  prometheus::Histogram* total_time_;
  prometheus::Histogram* queue_time_;
  prometheus::Histogram* prefill_time_;
  prometheus::Histogram* decode_time_;
  prometheus::Histogram* request_prompt_tokens_;
  prometheus::Histogram* request_generation_tokens_;
  std::mutex info_mutex_;
  prometheus::Gauge* info_ = nullptr;  // guarded by info_mutex_
};

}  // namespace fla
