#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <chrono>

namespace fla {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// Upper bounds in seconds.
const Buckets kInterTokenBuckets = {0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015,
                                    0.02,    0.03,   0.04,  0.05,   0.075, 0.1,    0.15, 0.2,
                                    0.3,     0.5,    0.75,  1.0,    2.5,   5.0};
const Buckets kFirstTokenBuckets = {0.001, 0.0025, 0.005, 0.01, 0.02,  0.04, 0.06, 0.08,
                                    0.1,   0.25,   0.5,   0.75, 1.0,   2.5,  5.0,  7.5,
                                    10.0,  20.0,   40.0,  80.0, 160.0, 640.0};
const Buckets kRequestTimeBuckets = {0.001, 0.005, 0.01,  0.05,  0.1,   0.3,   0.5,   0.8,  1.0,
                                     1.5,   2.0,   2.5,   5.0,   10.0,  15.0,  20.0,  30.0, 40.0,
                                     50.0,  60.0,  120.0, 240.0, 480.0, 960.0, 1920.0};
const Buckets kBatchTokensBuckets = {1,   2,   4,    8,    16,   32,   64,   128,
                                     256, 512, 1024, 2048, 4096, 8192, 16384};

constexpr std::array<const char*, 6> kOutcomes = {"stop",     "length",      "cancelled",
                                                  "deadline", "unavailable", "error"};
constexpr std::array<const char*, 4> kRejections = {"queue_full", "draining", "invalid", "failed"};

size_t OutcomeOf(const Finish& finish) {
  switch (finish.status.code()) {
    case absl::StatusCode::kOk:
      return static_cast<size_t>(finish.reason);
    case absl::StatusCode::kDeadlineExceeded:
      return static_cast<size_t>(FinishReason::kDeadline);
    case absl::StatusCode::kCancelled:
      return static_cast<size_t>(FinishReason::kCancelled);
    case absl::StatusCode::kUnavailable:
      return 4;
    default:
      return 5;
  }
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

prometheus::Gauge* AddGauge(prometheus::Registry& registry, const std::string& model,
                            const char* name, const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({{"model", model}});
}

prometheus::Counter* AddCounter(prometheus::Registry& registry, const char* name, const char* help,
                                const std::map<std::string, std::string>& labels) {
  return &prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
}

prometheus::Histogram* AddHistogram(prometheus::Registry& registry, const std::string& model,
                                    const char* name, const char* help, const Buckets& buckets) {
  return &prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(
      {{"model", model}}, buckets);
}

}  // namespace

ModelMetrics::ModelMetrics(prometheus::Registry& registry, const std::string& model)
    : registry_(registry), model_(model) {
  running_ = AddGauge(registry, model, "fla_requests_running", "Requests that hold a state slot.");
  waiting_ = AddGauge(registry, model, "fla_requests_waiting", "Requests in the queue.");
  slots_used_ = AddGauge(registry, model, "fla_state_slots_used", "State slots in use.");
  slots_total_ = AddGauge(registry, model, "fla_state_slots_total",
                          "State slots there are: the most requests that run at once.");
  load_seconds_ = AddGauge(registry, model, "fla_model_load_seconds",
                           "Time that the last load of the model took.");
  for (size_t i = 0; i < kOutcomes.size(); ++i) {
    finished_[i] = AddCounter(registry, "fla_requests_total", "Finished requests by reason.",
                              {{"model", model}, {"finish_reason", kOutcomes[i]}});
  }
  for (size_t i = 0; i < kRejections.size(); ++i) {
    rejections_[i] = AddCounter(registry, "fla_admission_rejections_total",
                                "Requests that were turned away before the queue, by reason.",
                                {{"model", model}, {"reason", kRejections[i]}});
  }
  prompt_tokens_ = AddCounter(registry, "fla_prompt_tokens_total",
                              "Prompt tokens that went through the model.", {{"model", model}});
  generation_tokens_ =
      AddCounter(registry, "fla_generation_tokens_total", "Tokens generated.", {{"model", model}});
  nonfinite_ = AddCounter(registry, "fla_state_nonfinite_total",
                          "Requests ended because their logits held a NaN or an infinity.",
                          {{"model", model}});
  batch_tokens_ =
      AddHistogram(registry, model, "fla_batch_tokens",
                   "Tokens of one step, prompts and decode together.", kBatchTokensBuckets);
  first_token_ = AddHistogram(registry, model, "fla_time_to_first_token_seconds",
                              "From the request's arrival to its first token.", kFirstTokenBuckets);
  inter_token_ = AddHistogram(registry, model, "fla_inter_token_latency_seconds",
                              "Between two tokens of a request.", kInterTokenBuckets);
  total_time_ = AddHistogram(registry, model, "fla_e2e_request_latency_seconds",
                             "From the request's arrival to its finish.", kRequestTimeBuckets);
  queue_time_ = AddHistogram(registry, model, "fla_request_queue_time_seconds",
                             "From the request's arrival to its state slot.", kRequestTimeBuckets);
  prefill_time_ = AddHistogram(registry, model, "fla_request_prefill_time_seconds",
                               "From the state slot to the first token.", kRequestTimeBuckets);
  decode_time_ = AddHistogram(registry, model, "fla_request_decode_time_seconds",
                              "From the first token to the last.", kRequestTimeBuckets);
}

void ModelMetrics::SetRunning(int requests) { running_->Set(requests); }
void ModelMetrics::SetWaiting(int requests) { waiting_->Set(requests); }

void ModelMetrics::SetSlots(int used, int total) {
  slots_used_->Set(used);
  slots_total_->Set(total);
}

void ModelMetrics::CountRejection(Rejection reason, int choices) {
  rejections_[static_cast<size_t>(reason)]->Increment(choices);
}

void ModelMetrics::CountPromptTokens(int tokens) { prompt_tokens_->Increment(tokens); }
void ModelMetrics::CountGenerationTokens(int tokens) { generation_tokens_->Increment(tokens); }
void ModelMetrics::CountNonfinite() { nonfinite_->Increment(); }
void ModelMetrics::ObserveBatch(int tokens) { batch_tokens_->Observe(tokens); }

void ModelMetrics::ObserveFirstToken(Clock::duration since_received) {
  first_token_->Observe(Seconds(since_received));
}

void ModelMetrics::ObserveInterToken(Clock::duration since_previous_token) {
  inter_token_->Observe(Seconds(since_previous_token));
}

void ModelMetrics::ObserveFinish(const Finish& finish) {
  finished_[OutcomeOf(finish)]->Increment();
  const RequestTimes& times = finish.times;
  const Clock::time_point unset{};
  total_time_->Observe(Seconds(times.finished - times.received));
  const Clock::time_point left_queue = times.admitted != unset ? times.admitted : times.finished;
  queue_time_->Observe(Seconds(left_queue - times.received));
  if (times.first_token == unset) return;
  prefill_time_->Observe(Seconds(times.first_token - times.admitted));
  decode_time_->Observe(Seconds(times.last_token - times.first_token));
}

void ModelMetrics::SetLoaded(double load_seconds, const ModelLabels& labels) {
  const std::lock_guard<std::mutex> lock(info_mutex_);
  load_seconds_->Set(load_seconds);
  auto& family = prometheus::BuildGauge()
                     .Name("fla_model_info")
                     .Help("What is served; always 1.")
                     .Register(registry_);
  if (info_ != nullptr) family.Remove(info_);
  info_ = &family.Add({{"model", model_},
                       {"model_type", labels.model_type},
                       {"device", labels.device},
                       {"dtype", labels.dtype},
                       {"parameters", std::to_string(labels.parameters)}});
  info_->Set(1);
}

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}
Metrics::~Metrics() = default;

ModelMetrics& Metrics::ForModel(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<ModelMetrics>& metrics = models_[name];
  if (metrics == nullptr) metrics = std::make_unique<ModelMetrics>(*registry_, name);
  return *metrics;
}

}  // namespace fla
