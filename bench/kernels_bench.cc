// The CPU kernels that a served token's time goes into, at the shapes of the demonstration model
// (KDA, D 384, 6 heads of 64 x 64) and of a 1.3B model (D 2048, MLP 5632, 4 heads of 256 x 512).
//
//   kernels_bench [--benchmark_filter=Linear]
//
// GFLOP/s counts a multiply-add as two. Thread count: OMP_NUM_THREADS.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/ops.h"
#include "kernels/recurrence.h"
#include "kernels/sampling.h"

namespace fla {
namespace {

// A contiguous matrix of normal numbers.
class RandomMatrix {
 public:
  RandomMatrix(int64_t rows, int64_t cols, DType dtype, double deviation = 1.0)
      : buffer_(Device{}, rows * cols * SizeOf(dtype)),
        view_{buffer_.data(), dtype, rows, cols, cols} {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
    for (int64_t i = 0; i < rows * cols; ++i) {
      if (dtype == DType::kF32) {
        buffer_.as<float>()[i] = normal(generator);
      } else {
        buffer_.as<BFloat16>()[i] = BFloat16(normal(generator));
      }
    }
  }

  Matrix view() const { return view_; }
  float* floats() const { return buffer_.as<float>(); }

 private:
  Buffer buffer_;
  Matrix view_;
};

void CountFlops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void CountTokens(benchmark::State& state, int64_t tokens) {
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

void BM_Linear(benchmark::State& state, DType dtype) {
  const int64_t in = state.range(0), out = state.range(1), tokens = state.range(2);
  Stream stream{Device{}};
  const RandomMatrix x(tokens, in, dtype), weight(out, in, dtype), y(tokens, out, dtype);
  for (auto _ : state) Linear(stream, x.view(), weight.view(), nullptr, y.view());
  CountFlops(state, 2.0 * static_cast<double>(in * out * tokens));
  state.counters["weight bytes/s"] = benchmark::Counter(
      static_cast<double>(in * out * SizeOf(dtype)), benchmark::Counter::kIsIterationInvariantRate);
}

void LinearShapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"in", "out", "tokens"})->UseRealTime();
  for (const auto& [in, out] :
       {std::pair{384, 1536}, {384, 4096}, {2048, 2048}, {2048, 5632}, {5632, 2048}}) {
    for (const int tokens : {1, 4, 16, 64, 512}) bench->Args({in, out, tokens});
  }
}
BENCHMARK_CAPTURE(BM_Linear, f32, DType::kF32)->Apply(LinearShapes);
BENCHMARK_CAPTURE(BM_Linear, bf16, DType::kBF16)->Apply(LinearShapes);

// One call of the recurrence on sequences of equal length.
class RecurrenceCall {
 public:
  RecurrenceCall(Decay decay, Update update, int heads, int key_dim, int value_dim, int sequences,
                 int length)
      : q_(int64_t{sequences} * length, heads * key_dim, DType::kF32, 1.0 / std::sqrt(key_dim)),
        v_(int64_t{sequences} * length, heads * value_dim, DType::kF32),
        out_(int64_t{sequences} * length, heads * value_dim, DType::kF32),
        states_(int64_t{sequences} * heads * key_dim, value_dim, DType::kF32) {
    const int64_t tokens = int64_t{sequences} * length;
    log_decay_.assign(tokens * heads * key_dim, -0.05f);
    beta_.assign(tokens * heads, 0.5f);
    for (int n = 0; n <= sequences; ++n) cu_seqlens_.push_back(n * length);
    for (int n = 0; n < sequences; ++n) slots_.push_back(n);
    args_ = {.spec = {.decay = decay,
                      .update = update,
                      .key_dim = key_dim,
                      .value_dim = value_dim,
                      .heads = heads,
                      .q_heads = heads,
                      .k_heads = heads,
                      .v_heads = heads,
                      .decay_heads = heads,
                      .scale = 1.0f / std::sqrt(static_cast<float>(key_dim))},
             .q = q_.view(),
             .k = q_.view(),
             .v = v_.view(),
             .log_decay = decay == Decay::kNone ? nullptr : log_decay_.data(),
             .beta = update == Update::kDelta ? beta_.data() : nullptr,
             .state = states_.floats(),
             .slots = slots_.data(),
             .cu_seqlens = cu_seqlens_.data(),
             .cu_seqlens_host = cu_seqlens_.data(),
             .num_sequences = sequences,
             .out = out_.view()};
  }

  const RecurrenceArgs& args() const { return args_; }

 private:
  RandomMatrix q_, v_, out_, states_;
  std::vector<float> log_decay_, beta_;
  std::vector<int> cu_seqlens_, slots_;
  RecurrenceArgs args_;
};

void BM_RecurrentStep(benchmark::State& state, Decay decay, Update update, int heads, int key_dim,
                      int value_dim) {
  const int sequences = static_cast<int>(state.range(0));
  Stream stream{Device{}};
  const RecurrenceCall call(decay, update, heads, key_dim, value_dim, sequences, 1);
  for (auto _ : state) RecurrentStep(stream, call.args());
  CountTokens(state, sequences);
  // The state is read and written.
  state.counters["state bytes/s"] = benchmark::Counter(
      8.0 * sequences * heads * key_dim * value_dim, benchmark::Counter::kIsIterationInvariantRate);
}

void BM_ChunkedPrefill(benchmark::State& state, Decay decay, Update update, int heads, int key_dim,
                       int value_dim) {
  const int sequences = static_cast<int>(state.range(0)), length = static_cast<int>(state.range(1));
  Stream stream{Device{}};
  const RecurrenceCall call(decay, update, heads, key_dim, value_dim, sequences, length);
  for (auto _ : state) ChunkedPrefill(stream, call.args());
  CountTokens(state, int64_t{sequences} * length);
}

void StepBatches(benchmark::internal::Benchmark* bench) {
  bench->ArgName("sequences")->Arg(1)->Arg(16)->UseRealTime();
}

void PrefillBatches(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"sequences", "length"})->Args({1, 512})->Args({16, 64})->UseRealTime();
}

#define FLA_RECURRENCE_BENCH(name, ...)                                       \
  BENCHMARK_CAPTURE(BM_RecurrentStep, name, __VA_ARGS__)->Apply(StepBatches); \
  BENCHMARK_CAPTURE(BM_ChunkedPrefill, name, __VA_ARGS__)->Apply(PrefillBatches)

FLA_RECURRENCE_BENCH(demo_kda, Decay::kPerChannel, Update::kDelta, 6, 64, 64);
FLA_RECURRENCE_BENCH(gla_1b, Decay::kPerChannel, Update::kAdditive, 4, 256, 512);
FLA_RECURRENCE_BENCH(retnet_1b, Decay::kPerHead, Update::kAdditive, 8, 256, 512);
FLA_RECURRENCE_BENCH(delta_net_1b, Decay::kNone, Update::kDelta, 16, 128, 128);
FLA_RECURRENCE_BENCH(gated_deltanet_1b, Decay::kPerToken, Update::kDelta, 6, 256, 512);

void BM_Sample(benchmark::State& state, SamplingRow row) {
  const int64_t rows = state.range(0), vocab = state.range(1);
  Stream stream{Device{}};
  const RandomMatrix source(rows, vocab, DType::kF32, 2.5), logits(rows, vocab, DType::kF32);
  std::vector<SamplingRow> sampling(rows, row);
  std::vector<int> tokens(rows), top_tokens(rows * kMaxTopLogprobs);
  std::vector<float> logprobs(rows), top_logprobs(rows * kMaxTopLogprobs);
  for (auto _ : state) {
    state.PauseTiming();  // sampling overwrites the logits
    stream.CopyToDevice(logits.floats(), source.floats(), rows * vocab * sizeof(float));
    for (int64_t i = 0; i < rows; ++i) sampling[i].position++;
    state.ResumeTiming();
    Sample(stream, {.logits = logits.view(),
                    .rows = sampling.data(),
                    .tokens = tokens.data(),
                    .logprobs = logprobs.data(),
                    .top_tokens = top_tokens.data(),
                    .top_logprobs = top_logprobs.data()});
  }
  CountTokens(state, rows);
}

void SampleShapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"rows", "vocab"})->UseRealTime();
  for (const int vocab : {4096, 32000, 248320}) bench->Args({1, vocab});
  bench->Args({16, 32000});
}
BENCHMARK_CAPTURE(BM_Sample, greedy, SamplingRow{})->Apply(SampleShapes);
BENCHMARK_CAPTURE(BM_Sample, temperature, SamplingRow{.temperature = 1.0f})->Apply(SampleShapes);
BENCHMARK_CAPTURE(BM_Sample, top_k_top_p,
                  SamplingRow{.temperature = 1.0f, .top_k = 50, .top_p = 0.9f})
    ->Apply(SampleShapes);
BENCHMARK_CAPTURE(BM_Sample, top_p, SamplingRow{.temperature = 1.0f, .top_p = 0.95f})
    ->Apply(SampleShapes);
BENCHMARK_CAPTURE(BM_Sample, logprobs, SamplingRow{.num_top_logprobs = 20})->Apply(SampleShapes);

}  // namespace
}  // namespace fla

BENCHMARK_MAIN();
