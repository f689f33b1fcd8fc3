// What a scrape finds beside the counters of the server: the process, the GPUs, vLLM's names.
#include "server/metrics_endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <string>

#include "server/gpu_metrics.h"
#include "server/process_metrics.h"
#include "server/vllm_metrics.h"

namespace fla {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Scrape(const prometheus::Collectable& collectable) {
  return prometheus::TextSerializer().Serialize(collectable.Collect());
}

double ValueOf(const prometheus::Collectable& collectable, const std::string& name) {
  for (const prometheus::MetricFamily& family : collectable.Collect()) {
    if (family.name != name) continue;
    const prometheus::ClientMetric& metric = family.metric.at(0);
    return family.type == prometheus::MetricType::Counter ? metric.counter.value
                                                          : metric.gauge.value;
  }
  ADD_FAILURE() << "no metric " << name;
  return 0;
}

TEST(ProcessMetrics, SayWhatThisProcessUses) {
  const ProcessMetrics metrics;
  EXPECT_GT(ValueOf(metrics, "process_resident_memory_bytes"), 1 << 20);
  EXPECT_GT(ValueOf(metrics, "process_virtual_memory_bytes"),
            ValueOf(metrics, "process_resident_memory_bytes"));
  EXPECT_GE(ValueOf(metrics, "process_threads"), 1);
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_NEAR(ValueOf(metrics, "process_start_time_seconds"), now, 600);

  const double open = ValueOf(metrics, "process_open_fds");
  const int another = dup(0);
  EXPECT_EQ(ValueOf(metrics, "process_open_fds"), open + 1);
  close(another);
  EXPECT_GT(ValueOf(metrics, "process_max_fds"), open);
}

TEST(ProcessMetrics, CpuTimeGrowsWithWork) {
  const ProcessMetrics metrics;
  const double before = ValueOf(metrics, "process_cpu_seconds_total");
  const auto begin = std::chrono::steady_clock::now();
  double after = before;
  while (after == before && std::chrono::steady_clock::now() - begin < std::chrono::seconds(30)) {
    after = ValueOf(metrics, "process_cpu_seconds_total");
  }
  EXPECT_GT(after, before);
}

TEST(GpuMetrics, NoGpuIsNoFamily) { EXPECT_TRUE(GpuMetrics(nullptr).Collect().empty()); }

TEST(GpuMetrics, AGpuTellsWhatItCan) {
  const std::string text = Scrape(GpuMetrics(GpuTelemetry::Open(FLA_FAKE_NVML_LIBRARY)));
  for (const char* line :
       {"fla_gpu_info{gpu=\"0\",device=\"\",name=\"Fake H200\",uuid=\"GPU-0\"} 1",
        "fla_gpu_utilization_ratio{gpu=\"0\"} 0.75", "fla_gpu_memory_used_bytes{gpu=\"0\"} 3",
        "fla_gpu_memory_total_bytes{gpu=\"1\"} 2", "fla_gpu_power_watts{gpu=\"0\"} 412.5",
        "# TYPE fla_gpu_energy_joules_total counter", "fla_gpu_temperature_celsius{gpu=\"0\"} 61",
        "fla_gpu_sm_clock_hertz{gpu=\"0\"} 1980000000"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, Not(HasSubstr("fla_gpu_power_watts{gpu=\"1\"}")));
}

class VllmMetricsTest : public ::testing::Test {
 protected:
  std::string Scrape() const { return fla::Scrape(VllmMetrics(metrics_.registry())); }

  Metrics metrics_;
  ModelMetrics& model_ = metrics_.ForModel("m");
};

TEST_F(VllmMetricsTest, TheGaugesThatRoutersReadFollowOurs) {
  GaugePart running(model_.running()), waiting(model_.waiting()), used(model_.slots_used()),
      total(model_.slots_total());
  running.Set(3);
  waiting.Set(5);
  used.Set(3);
  total.Set(4);
  const std::string text = Scrape();
  EXPECT_THAT(text, HasSubstr("vllm:num_requests_running{model_name=\"m\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("vllm:num_requests_waiting{model_name=\"m\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("vllm:kv_cache_usage_perc{model_name=\"m\"} 0.75\n"));
  EXPECT_THAT(text, HasSubstr("vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.75\n"));
}

TEST_F(VllmMetricsTest, NoSlotsAreNoUsage) {
  EXPECT_THAT(Scrape(), HasSubstr("vllm:kv_cache_usage_perc{model_name=\"m\"} 0\n"));
}

TEST_F(VllmMetricsTest, CountersAndHistogramsCarryOurValues) {
  model_.CountGenerationTokens(17);
  model_.ObserveInterToken(std::chrono::milliseconds(3));
  const std::string text = Scrape();
  EXPECT_THAT(text, HasSubstr("# TYPE vllm:generation_tokens_total counter"));
  EXPECT_THAT(text, HasSubstr("vllm:generation_tokens_total{model_name=\"m\"} 17\n"));
  for (const char* name :
       {"vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"}) {
    EXPECT_THAT(text, HasSubstr(std::string(name) + "_count{model_name=\"m\"} 1\n"));
    EXPECT_THAT(text, HasSubstr(std::string(name) + "_bucket{model_name=\"m\",le=\"0.0025\"} 0\n"));
    EXPECT_THAT(text, HasSubstr(std::string(name) + "_bucket{model_name=\"m\",le=\"0.005\"} 1\n"));
  }
}

TEST_F(VllmMetricsTest, FinishReasonsAreInVllmsWords) {
  Finish finish;
  finish.reason = FinishReason::kCancelled;
  model_.ObserveFinish(finish);
  finish.reason = FinishReason::kDeadline;
  model_.ObserveFinish(finish);
  const std::string text = Scrape();
  EXPECT_THAT(
      text,
      HasSubstr("vllm:request_success_total{finished_reason=\"abort\",model_name=\"m\"} 1\n"));
  EXPECT_THAT(
      text, HasSubstr("vllm:request_success_total{finished_reason=\"stop\",model_name=\"m\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("deadline")));
}

TEST(MetricsEndpoint, RefusesAnAddressItCannotHave) {
  const Metrics metrics;
  const MetricsEndpoint endpoint("127.0.0.1:0", metrics, false);
  EXPECT_GT(endpoint.port(), 0);
  const std::string taken = "127.0.0.1:" + std::to_string(endpoint.port());
  try {
    const MetricsEndpoint second(taken, metrics, false);
    FAIL() << "two endpoints on " << taken;
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("metrics_listen: cannot listen on " + taken));
  }
}

}  // namespace
}  // namespace fla
