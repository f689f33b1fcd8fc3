#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <string>

namespace fla {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Scrape(const Metrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.registry()->Collect());
}

TEST(MetricsTest, EveryNameIsThereFromTheFirstScrape) {
  Metrics metrics;
  metrics.ForModel("demo");
  const std::string text = Scrape(metrics);
  for (const char* series :
       {"fla_requests_running{model=\"demo\"} 0",
        "fla_requests_waiting{model=\"demo\"} 0",
        "fla_requests_total{finish_reason=\"stop\",model=\"demo\"} 0",
        "fla_requests_total{finish_reason=\"length\",model=\"demo\"} 0",
        "fla_requests_total{finish_reason=\"cancelled\",model=\"demo\"} 0",
        "fla_requests_total{finish_reason=\"deadline\",model=\"demo\"} 0",
        "fla_requests_total{finish_reason=\"embedded\",model=\"demo\"} 0",
        "fla_requests_total{finish_reason=\"unavailable\",model=\"demo\"} 0",
        "fla_requests_total{finish_reason=\"error\",model=\"demo\"} 0",
        "fla_admission_rejections_total{model=\"demo\",reason=\"queue_full\"} 0",
        "fla_admission_rejections_total{model=\"demo\",reason=\"draining\"} 0",
        "fla_admission_rejections_total{model=\"demo\",reason=\"invalid\"} 0",
        "fla_admission_rejections_total{model=\"demo\",reason=\"failed\"} 0",
        "fla_admission_rejections_total{model=\"demo\",reason=\"too_many_calls\"} 0",
        "fla_prompt_tokens_total{model=\"demo\"} 0",
        "fla_generation_tokens_total{model=\"demo\"} 0",
        "fla_time_to_first_token_seconds_count{model=\"demo\"} 0",
        "fla_inter_token_latency_seconds_bucket{model=\"demo\",le=\"0.00025\"} 0",
        "fla_e2e_request_latency_seconds_count{model=\"demo\"} 0",
        "fla_request_queue_time_seconds_count{model=\"demo\"} 0",
        "fla_request_prefill_time_seconds_count{model=\"demo\"} 0",
        "fla_request_decode_time_seconds_count{model=\"demo\"} 0",
        "fla_batch_tokens_count{model=\"demo\"} 0",
        "fla_state_slots_used{model=\"demo\"} 0",
        "fla_state_slots_total{model=\"demo\"} 0",
        "fla_model_load_seconds{model=\"demo\"} 0",
        "fla_requests_waiting_limit{model=\"demo\"} 0",
        "fla_model_serving{model=\"demo\"} 0",
        "fla_model_swaps_total{model=\"demo\",result=\"success\"} 0",
        "fla_model_swaps_total{model=\"demo\",result=\"failure\"} 0",
        "fla_batch_decode_sequences_count{model=\"demo\"} 0",
        "fla_step_seconds_bucket{model=\"demo\",le=\"0.00025\"} 0",
        "fla_request_prompt_tokens_count{model=\"demo\"} 0",
        "fla_request_generation_tokens_count{model=\"demo\"} 0",
        "fla_config_reload_total{result=\"success\"} 0",
        "fla_config_reload_total{result=\"failure\"} 0",
        "fla_config_last_reload_successful 1",
        "fla_state_nonfinite_total{model=\"demo\"} 0"}) {
    EXPECT_THAT(text, HasSubstr(series));
  }
}

TEST(MetricsTest, OneModelIsOneObject) {
  Metrics metrics;
  ModelMetrics& first = metrics.ForModel("a");
  EXPECT_EQ(&metrics.ForModel("a"), &first);
  EXPECT_NE(&metrics.ForModel("b"), &first);
  first.CountPromptTokens(3);
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("fla_prompt_tokens_total{model=\"a\"} 3"));
  EXPECT_THAT(text, HasSubstr("fla_prompt_tokens_total{model=\"b\"} 0"));
}

TEST(MetricsTest, AFinishIsCountedByItsReason) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("m");
  Finish finish;
  finish.reason = FinishReason::kLength;
  model.ObserveFinish(finish);
  finish.status = absl::InternalError("broken");
  model.ObserveFinish(finish);
  finish.status = absl::UnavailableError("draining");
  model.ObserveFinish(finish);
  finish.status = absl::DeadlineExceededError("too late");
  model.ObserveFinish(finish);
  const std::string text = Scrape(metrics);
  for (const char* reason : {"length", "error", "unavailable", "deadline"}) {
    EXPECT_THAT(text, HasSubstr("fla_requests_total{finish_reason=\"" + std::string(reason) +
                                "\",model=\"m\"} 1"));
  }
  EXPECT_THAT(text, HasSubstr("fla_requests_total{finish_reason=\"stop\",model=\"m\"} 0"));
}

TEST(MetricsTest, AFinishObservesTheTimesItHas) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("m");
  Finish finish;
  const Clock::time_point start = Clock::now();
  finish.times.received = start;
  finish.times.finished = start + milliseconds(500);
  model.ObserveFinish(finish);  // never left the queue
  finish.times.admitted = start + milliseconds(250);
  finish.times.first_token = start + milliseconds(1250);
  finish.times.last_token = start + milliseconds(3250);
  finish.times.finished = start + milliseconds(3500);
  model.ObserveFinish(finish);
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("fla_e2e_request_latency_seconds_sum{model=\"m\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("fla_request_queue_time_seconds_sum{model=\"m\"} 0.75\n"));
  EXPECT_THAT(text, HasSubstr("fla_request_prefill_time_seconds_sum{model=\"m\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("fla_request_prefill_time_seconds_count{model=\"m\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("fla_request_decode_time_seconds_sum{model=\"m\"} 2\n"));
}

TEST(MetricsTest, ASecondLoadReplacesTheModelsLabels) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("m");
  model.SetLoaded(1.5, {.model_type = "gla", .device = "cpu", .dtype = "f32", .parameters = 7});
  model.SetLoaded(2.5, {.model_type = "kda", .device = "cpu", .dtype = "bf16", .parameters = 8});
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("fla_model_load_seconds{model=\"m\"} 2.5"));
  EXPECT_THAT(text, HasSubstr("model_type=\"kda\""));
  EXPECT_THAT(text, Not(HasSubstr("model_type=\"gla\"")));
  EXPECT_THAT(text, HasSubstr("fla_model_serving{model=\"m\"} 1"));
  model.SetUnloaded();
  EXPECT_THAT(Scrape(metrics), Not(HasSubstr("fla_model_info{")));
  EXPECT_THAT(Scrape(metrics), HasSubstr("fla_model_serving{model=\"m\"} 0"));
}

TEST(MetricsTest, EnginesOfAModelAddUpAndTakeTheirPartAway) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("m");
  GaugePart old_engine(model.running());
  old_engine.Set(3);
  {
    GaugePart new_engine(model.running());
    new_engine.Set(5);
    new_engine.Set(4);
    EXPECT_THAT(Scrape(metrics), HasSubstr("fla_requests_running{model=\"m\"} 7\n"));
  }
  EXPECT_THAT(Scrape(metrics), HasSubstr("fla_requests_running{model=\"m\"} 3\n"));
}

TEST(MetricsTest, MemoryIsByKindAndDevice) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("m");
  const GaugePart unused(model.memory("cpu", MemoryKind::kWeights));
  GaugePart states(model.memory("cuda:0", MemoryKind::kStates));
  states.Set(int64_t{5} << 32);
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("{device=\"cuda:0\",kind=\"states\",model=\"m\"} 21474836480\n"));
  EXPECT_THAT(text, HasSubstr("{device=\"cpu\",kind=\"weights\",model=\"m\"} 0\n"));
}

TEST(MetricsTest, ABatchIsObservedWholeAndByItsDecodePart) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("m");
  model.ObserveBatch(/*decode=*/3, /*prefill=*/40);
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("fla_batch_tokens_sum{model=\"m\"} 43\n"));
  EXPECT_THAT(text, HasSubstr("fla_batch_decode_sequences_sum{model=\"m\"} 3\n"));
}

TEST(MetricsTest, GapsHaveBucketsOfMicroseconds) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("m");
  for (const int nanoseconds : {900, 2750, 4500}) {
    model.ObserveDeviceGap(std::chrono::nanoseconds(nanoseconds));
  }
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("fla_device_gap_seconds_bucket{model=\"m\",le=\"1e-06\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("fla_device_gap_seconds_bucket{model=\"m\",le=\"5e-06\"} 3\n"));
}

TEST(MetricsTest, ReloadsAndSwapsAreCountedByResult) {
  Metrics metrics;
  metrics.ForModel("m").CountSwap(SwapResult::kFailure);
  metrics.CountConfigReload(true);
  metrics.CountConfigReload(false);
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("fla_model_swaps_total{model=\"m\",result=\"failure\"} 1"));
  EXPECT_THAT(text, HasSubstr("fla_model_swaps_total{model=\"m\",result=\"success\"} 0"));
  EXPECT_THAT(text, HasSubstr("fla_config_reload_total{result=\"success\"} 1"));
  EXPECT_THAT(text, HasSubstr("fla_config_reload_total{result=\"failure\"} 1"));
  EXPECT_THAT(text, HasSubstr("fla_config_last_reload_successful 0"));
}

}  // namespace
}  // namespace fla
