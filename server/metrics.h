// What Prometheus reads: counters, gauges and histograms, prefix `fla_`, label `model`.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
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
enum class Rejection { kQueueFull, kDraining, kInvalid, kFailed };

// Labels of model_info.
struct ModelLabels {
  std::string model_type;
  std::string device;
  std::string dtype;
  int64_t parameters = 0;
};

// The metrics of one model. A "request" is one choice of a client's request.
//
// Thread safety: all methods may be called from any thread.
class ModelMetrics {
 public:
  ModelMetrics(prometheus::Registry& registry, const std::string& model);

  void SetRunning(int requests);
  void SetWaiting(int requests);
  void SetSlots(int used, int total);

  // A client's request of `choices` choices that was not queued.
  void CountRejection(Rejection reason, int choices = 1);
  void CountPromptTokens(int tokens);      // prompt tokens that went through the model
  void CountGenerationTokens(int tokens);  // sampled tokens
  void CountNonfinite();                   // a row of logits with a NaN or an infinity

  void ObserveBatch(int tokens);
  void ObserveFirstToken(Clock::duration since_received);
  void ObserveInterToken(Clock::duration since_previous_token);
  // Counts the finish by its reason ("stop", "length", "cancelled", "deadline", "unavailable" or
  // "error") and observes the request's total, queue, prefill and decode time, as far as it came.
  void ObserveFinish(const Finish& finish);

  // Once the model is ready to serve; the labels replace those of an earlier load.
  void SetLoaded(double load_seconds, const ModelLabels& labels);

 private:
  prometheus::Registry& registry_;
  std::string model_;
  prometheus::Gauge* running_;
  prometheus::Gauge* waiting_;
  prometheus::Gauge* slots_used_;
  prometheus::Gauge* slots_total_;
  prometheus::Gauge* load_seconds_;
  std::array<prometheus::Counter*, 6> finished_;    // by outcome, see metrics.cc
  std::array<prometheus::Counter*, 4> rejections_;  // by Rejection
  prometheus::Counter* prompt_tokens_;
  prometheus::Counter* generation_tokens_;
  prometheus::Counter* nonfinite_;
  prometheus::Histogram* batch_tokens_;
  prometheus::Histogram* first_token_;
  prometheus::Histogram* inter_token_;
  prometheus::Histogram* total_time_;
  prometheus::Histogram* queue_time_;
  prometheus::Histogram* prefill_time_;
  prometheus::Histogram* decode_time_;
  std::mutex info_mutex_;
  prometheus::Gauge* info_ = nullptr;  // guarded by info_mutex_
};

// The metrics of the server.
//
// Thread safety: all methods may be called from any thread.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  // For the exposer that answers /metrics.
  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

  // The metrics of the model that the config calls `name`, made (all at zero) by the first call.
  // The reference is valid as long as this object.
  ModelMetrics& ForModel(const std::string& name);

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<ModelMetrics>> models_;  // guarded by mutex_
};

}  // namespace fla
