// What the metrics cost the engine's thread, a token, a step and a request; and what a scrape
// costs.
#include <benchmark/benchmark.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <string>

#include "server/metrics.h"

namespace fla {
namespace {

// Latencies that vary as real ones do, so that the search in the buckets is not always the same.
Clock::duration Latency(int64_t i) { return std::chrono::microseconds(500 + i * 7919 % 60000); }

// What each generated token adds to the work of a step.
void BM_Token(benchmark::State& state) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("demo");
  int64_t i = 0;
  for (auto _ : state) model.ObserveInterToken(Latency(++i));
}
BENCHMARK(BM_Token);

// What each step adds, whatever its size.
void BM_Step(benchmark::State& state) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("demo");
  GaugePart waiting(model.waiting()), workspace(model.memory("cpu", MemoryKind::kWorkspace));
  int64_t i = 0;
  for (auto _ : state) {
    ++i;
    model.ObserveBatch(static_cast<int>(i % 64), static_cast<int>(i % 512));
    model.ObserveStep(Latency(i));
    model.ObserveDeviceGap(Latency(i) / 1000);
    model.CountGenerationTokens(64);
    waiting.Set(i % 8);
    workspace.Set(1 << 20);
  }
}
BENCHMARK(BM_Step);

// What each request adds, from its first token to its finish.
void BM_Request(benchmark::State& state) {
  Metrics metrics;
  ModelMetrics& model = metrics.ForModel("demo");
  GaugePart running(model.running()), used(model.slots_used());
  Finish finish;
  const Clock::time_point start = Clock::now();
  int64_t i = 0;
  for (auto _ : state) {
    finish.times = {start, start + Latency(++i), start + Latency(i * 3), start + Latency(i * 5),
                    start + Latency(i * 7)};
    finish.completion_tokens = static_cast<int>(i % 300);
    running.Set(i % 64);
    used.Set(i % 64);
    model.CountPromptTokens(17);
    model.ObserveFirstToken(Latency(i));
    model.ObserveFinish(finish);
  }
}
BENCHMARK(BM_Request);

// Collecting and writing everything, on the endpoint's thread; the locks that it takes are held for
// one histogram at a time.
void BM_Scrape(benchmark::State& state) {
  Metrics metrics;
  for (int model = 0; model < state.range(0); ++model) {
    metrics.ForModel("model" + std::to_string(model));
  }
  const prometheus::TextSerializer serializer;
  size_t bytes = 0;
  for (auto _ : state) bytes = serializer.Serialize(metrics.registry()->Collect()).size();
  state.counters["bytes"] = static_cast<double>(bytes);
}
BENCHMARK(BM_Scrape)->Arg(1)->Arg(8)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace fla

BENCHMARK_MAIN();
