#include "server/model_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <chrono>

namespace fla {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// Upper bounds in seconds.
const Buckets kStepBuckets = {0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015,
                              0.02,    0.03,   0.04,  0.05,   0.075, 0.1,    0.15, 0.2,
                              0.3,     0.5,    0.75,  1.0,    2.5,   5.0};
const Buckets kGapBuckets = {0.000001, 0.000002, 0.000003, 0.000005, 0.00001, 0.00002,
                             0.00005,  0.0001,   0.0002,   0.0005,   0.001,   0.0025,
                             0.005,    0.01,     0.05,     0.25};
const Buckets kFirstTokenBuckets = {0.001, 0.0025, 0.005, 0.01, 0.02,  0.04, 0.06, 0.08,
                                    0.1,   0.25,   0.5,   0.75, 1.0,   2.5,  5.0,  7.5,
                                    10.0,  20.0,   40.0,  80.0, 160.0, 640.0};
const Buckets kRequestTimeBuckets = {0.001, 0.005, 0.01,  0.05,  0.1,   0.3,   0.5,   0.8,  1.0,
                                     1.5,   2.0,   2.5,   5.0,   10.0,  15.0,  20.0,  30.0, 40.0,
                                     50.0,  60.0,  120.0, 240.0, 480.0, 960.0, 1920.0};
const Buckets kTokensBuckets = {1,   2,   4,    8,    16,   32,   64,   128,
                                256, 512, 1024, 2048, 4096, 8192, 16384};
const Buckets kRequestTokensBuckets = {1,   2,    5,    10,   20,    50,    100,   200,
                                       500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};

constexpr std::array<const char*, 7> kOutcomes = {
    "stop", "length", "cancelled", "deadline", "embedded", "unavailable", "error"};
constexpr std::array<const char*, 5> kRejections = {"queue_full", "draining", "invalid", "failed",
                                                    "too_many_calls"};
constexpr std::array<const char*, 2> kSwapResults = {"success", "failure"};
constexpr std::array<const char*, 3> kMemoryKinds = {"weights", "states", "workspace"};

size_t OutcomeOf(const Finish& finish) {
  switch (finish.status.code()) {
    case absl::StatusCode::kOk:
      return static_cast<size_t>(finish.reason);
    case absl::StatusCode::kDeadlineExceeded:
      return static_cast<size_t>(FinishReason::kDeadline);
    case absl::StatusCode::kCancelled:
      return static_cast<size_t>(FinishReason::kCancelled);
    case absl::StatusCode::kUnavailable:
      return 5;
    default:
      return 6;
  }
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

using Labels = std::map<std::string, std::string>;

prometheus::Gauge* AddGauge(prometheus::Registry& registry, const Labels& labels, const char* name,
                            const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
}

prometheus::Counter* AddCounter(prometheus::Registry& registry, const Labels& labels,
                                const char* name, const char* help) {
  return &prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
}

prometheus::Histogram* AddHistogram(prometheus::Registry& registry, const Labels& labels,
                                    const char* name, const char* help, const Buckets& buckets) {
  return &prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels,
                                                                                    buckets);
}

prometheus::Family<prometheus::Gauge>& InfoFamily(prometheus::Registry& registry) {
  return prometheus::BuildGauge()
      .Name("fla_model_info")
      .Help("What is served; always 1.")
      .Register(registry);
}

}  // namespace

void GaugePart::Set(int64_t value) {
  gauge_.Increment(static_cast<double>(value - value_.exchange(value)));
}

ModelMetrics::ModelMetrics(prometheus::Registry& registry, const std::string& model)
    : registry_(registry), model_(model) {
  const Labels labels = {{"model", model}};
  const auto gauge = [&](const char* name, const char* help) {
    return AddGauge(registry, labels, name, help);
  };
  running_ = gauge("fla_requests_running", "Requests that hold a state slot.");
  waiting_ = gauge("fla_requests_waiting", "Requests in the queue.");
  waiting_limit_ = gauge("fla_requests_waiting_limit", "Requests that the queue takes.");
  slots_used_ = gauge("fla_state_slots_used", "State slots in use.");
  slots_total_ =
      gauge("fla_state_slots_total", "State slots there are: the most requests that run at once.");
  load_seconds_ = gauge("fla_model_load_seconds", "Time that the last load of the model took.");
  serving_ = gauge("fla_model_serving", "1 while the model takes requests, else 0.");

  for (size_t i = 0; i < kOutcomes.size(); ++i) {
    finished_[i] = AddCounter(registry, {{"model", model}, {"finish_reason", kOutcomes[i]}},
                              "fla_requests_total", "Finished requests by reason.");
  }
  for (size_t i = 0; i < kRejections.size(); ++i) {
    rejections_[i] = AddCounter(registry, {{"model", model}, {"reason", kRejections[i]}},
                                "fla_admission_rejections_total",
                                "Requests that were turned away before the queue, by reason.");
  }
  for (size_t i = 0; i < kSwapResults.size(); ++i) {
    swaps_[i] = AddCounter(registry, {{"model", model}, {"result", kSwapResults[i]}},
                           "fla_model_swaps_total",
                           "New versions of the model that came to serve, or not.");
  }
  const auto counter = [&](const char* name, const char* help) {
    return AddCounter(registry, labels, name, help);
  };
  prompt_tokens_ = counter("fla_prompt_tokens_total", "Prompt tokens that went through the model.");
  generation_tokens_ = counter("fla_generation_tokens_total", "Tokens generated.");
  nonfinite_ =
      counter("fla_state_nonfinite_total",
              "Requests ended because their logits or hidden states held a NaN or an infinity.");

  const auto histogram = [&](const char* name, const char* help, const Buckets& buckets) {
    return AddHistogram(registry, labels, name, help, buckets);
  };
  batch_tokens_ = histogram("fla_batch_tokens", "Tokens of one step, prompts and decode together.",
                            kTokensBuckets);
  batch_decode_ = histogram("fla_batch_decode_sequences",
                            "Sequences of one step that generate, a token each.", kTokensBuckets);
  step_time_ = histogram("fla_step_seconds",
                         "Time of one step, from its composition to its tokens.", kStepBuckets);
  device_gap_ = histogram("fla_device_gap_seconds",
                          "Between two steps, while there was work: from the end of one's sampling "
                          "to the beginning of the next, by the device's clock.",
                          kGapBuckets);
  first_token_ = histogram("fla_time_to_first_token_seconds",
                           "From the request's arrival to its first token.", kFirstTokenBuckets);
  inter_token_ = histogram("fla_inter_token_latency_seconds", "Between two tokens of a request.",
                           kStepBuckets);
  total_time_ = histogram("fla_e2e_request_latency_seconds",
                          "From the request's arrival to its finish.", kRequestTimeBuckets);
  queue_time_ = histogram("fla_request_queue_time_seconds",
                          "From the request's arrival to its state slot.", kRequestTimeBuckets);
  prefill_time_ =
      histogram("fla_request_prefill_time_seconds",
                "From the state slot to the first token or the embedding.", kRequestTimeBuckets);
  decode_time_ = histogram("fla_request_decode_time_seconds", "From the first token to the last.",
                           kRequestTimeBuckets);
  request_prompt_tokens_ = histogram("fla_request_prompt_tokens",
                                     "Prompt tokens of a finished request.", kRequestTokensBuckets);
  request_generation_tokens_ =
      histogram("fla_request_generation_tokens", "Tokens that a finished request generated.",
                kRequestTokensBuckets);
}

prometheus::Gauge& ModelMetrics::memory(const std::string& device, MemoryKind kind) {
  return *AddGauge(
      registry_,
      {{"model", model_}, {"device", device}, {"kind", kMemoryKinds[static_cast<size_t>(kind)]}},
      "fla_device_memory_bytes", "Memory that the model holds on its device, by kind.");
}

void ModelMetrics::CountRejection(Rejection reason, int choices) {
  rejections_[static_cast<size_t>(reason)]->Increment(choices);
}

void ModelMetrics::CountPromptTokens(int tokens) { prompt_tokens_->Increment(tokens); }
void ModelMetrics::CountGenerationTokens(int tokens) { generation_tokens_->Increment(tokens); }
void ModelMetrics::CountNonfinite() { nonfinite_->Increment(); }

void ModelMetrics::ObserveBatch(int decode, int prefill) {
  batch_tokens_->Observe(decode + prefill);
  batch_decode_->Observe(decode);
}

void ModelMetrics::ObserveStep(Clock::duration time) { step_time_->Observe(Seconds(time)); }

void ModelMetrics::ObserveDeviceGap(Clock::duration time) { device_gap_->Observe(Seconds(time)); }

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
  request_prompt_tokens_->Observe(finish.prompt_tokens);
  request_generation_tokens_->Observe(finish.completion_tokens);
  const Clock::time_point left_queue = times.admitted != unset ? times.admitted : times.finished;
  queue_time_->Observe(Seconds(left_queue - times.received));
  if (finish.status.ok() && finish.reason == FinishReason::kEmbedded) {
    prefill_time_->Observe(Seconds(times.finished - times.admitted));
  }
  if (times.first_token == unset) return;
  prefill_time_->Observe(Seconds(times.first_token - times.admitted));
  decode_time_->Observe(Seconds(times.last_token - times.first_token));
}

void ModelMetrics::SetLoaded(double load_seconds, const ModelLabels& labels) {
  const std::lock_guard<std::mutex> lock(info_mutex_);
  load_seconds_->Set(load_seconds);
  SetServing(true);
  RemoveInfo();
  Labels all = {{"model", model_},
                {"model_type", labels.model_type},
                {"device", labels.device},
                {"dtype", labels.dtype},
                {"parameters", std::to_string(labels.parameters)}};
  if (!labels.version.empty()) all.emplace("version", labels.version);
  info_ = &InfoFamily(registry_).Add(all);
  info_->Set(1);
}

void ModelMetrics::SetUnloaded() {
  const std::lock_guard<std::mutex> lock(info_mutex_);
  SetServing(false);
  RemoveInfo();
}

void ModelMetrics::RemoveInfo() {
  if (info_ != nullptr) InfoFamily(registry_).Remove(info_);
  info_ = nullptr;
}

void ModelMetrics::SetServing(bool serving) { serving_->Set(serving ? 1 : 0); }

void ModelMetrics::CountSwap(SwapResult result) {
  swaps_[static_cast<size_t>(result)]->Increment();
}

}  // namespace fla
