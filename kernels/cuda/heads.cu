// Norms over heads: ActivateHeads (before the recurrence) and OutputNorm (after it).
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/head_norm.cuh"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

constexpr int kKept = 2;  // pieces of a head that a lane of OutputNormKernel keeps

// A lane takes columns lane * N, (lane + lanes) * N, ... of its head and keeps the first N in
// registers; the others, if any, are read and activated again for the second pass.
// grid (T * H * lanes / block), block (kHeadThreads)
template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    ActivateHeadsKernel(HeadGroups groups, ActivateHeadsArgs args) {
  BeginNextKernel();
  AwaitPreviousKernel();
  const HeadLane at = FindHeadLane(groups);
  const int64_t offset = static_cast<int64_t>(at.head) * args.head_dim;
  const T* x = RowOf<const T>(args.x, at.token) + offset;
  T* out = RowOf<T>(args.out, at.token) + offset;
  const int first = at.lane * N, step = groups.lanes * N;

  float kept[N] = {};
  float sum = 0.0f;
  for (int column = first; column < args.head_dim; column += step) {
    float values[N];
    Unpack(LoadRun<N>(x + column), values);
    ActivateAll<T>(args.activation, values);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if (column == first) kept[i] = values[i];
      sum += HeadNormTerm(args.norm, values[i]);
    }
  }
  float factor = 1.0f;
  if (args.norm != HeadNorm::kNone) {
    factor = HeadNormFactor(args.norm, GroupSum(groups, sum), args.eps);
  }
  if (!at.valid) return;
  for (int column = first; column < args.head_dim; column += step) {
    float values[N];
    if (column != first) {
      Unpack(LoadRun<N>(x + column), values);
      ActivateAll<T>(args.activation, values);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = (column == first ? kept[i] : values[i]) * factor;
    Store(out + column, values);
  }
}

// Columns are shared out as in ActivateHeadsKernel, but a lane keeps kKept pieces of N of them, and
// asks for their gates before it adds anything up, and for their weights while the kernel before
// still runs: heads of 512 are read once and wait once.
// grid (T * H * lanes / block), block (kHeadThreads)
template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    OutputNormKernel(HeadGroups groups, OutputNormArgs args) {
  BeginNextKernel();
  const HeadLane at = FindHeadLane(groups);
  const int64_t offset = static_cast<int64_t>(at.head) * args.head_dim;
  const T* x = RowOf<const T>(args.x, at.token) + offset;
  const bool gated = args.gate.data != nullptr;
  const T* gate = gated ? RowOf<const T>(args.gate, at.token) + offset : nullptr;
  const float* const weight = args.normalize ? args.weight : nullptr;
  const int first = at.lane * N, step = groups.lanes * N;

  float weights[kKept][N];
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int column = first + i * step;
    if (weight != nullptr && column < args.head_dim) Load(weight + column, weights[i]);
  }
  AwaitPreviousKernel();
  Run<T, N> kept[kKept] = {}, gates[kKept] = {};
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int column = first + i * step;
    if (column >= args.head_dim) continue;
    kept[i] = LoadRun<N>(x + column);
    if (gated) gates[i] = LoadRun<N>(gate + column);
  }
  float sum = 0.0f;
  const auto add = [&](const Run<T, N>& run) {
    float values[N];
    Unpack(run, values);
#pragma unroll
    for (int i = 0; i < N; ++i) sum += values[i] * values[i];
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) add(kept[i]);
  for (int column = first + kKept * step; column < args.head_dim; column += step)
    add(LoadRun<N>(x + column));
  float factor = 1.0f;
  if (args.normalize) {
    factor = rsqrtf(GroupSum(groups, sum) / static_cast<float>(args.head_dim) + args.eps);
  }
  if (!at.valid) return;
  const auto finish = [&](int column, const Run<T, N>& run, const Run<T, N>& gate_run,
                          const float(&of_columns)[N]) {
    float values[N];
    Unpack(run, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= factor;
    if (weight != nullptr) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] *= of_columns[i];
    }
    if (gated) {
      float factors[N];
      Unpack(gate_run, factors);
      ActivateAll<T>(args.gate_activation, factors);
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] *= factors[i];
    }
    Store(RowOf<T>(args.out, at.token) + offset + column, values);
  };
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const int column = first + i * step;
    if (column < args.head_dim) finish(column, kept[i], gates[i], weights[i]);
  }
  for (int column = first + kKept * step; column < args.head_dim; column += step) {
    float further[N];
    if (weight != nullptr) Load(weight + column, further);
    finish(column, LoadRun<N>(x + column), gated ? LoadRun<N>(gate + column) : Run<T, N>{},
           further);
  }
}

}  // namespace

void ActivateHeads(Stream& stream, const ActivateHeadsArgs& args) {
  if (args.x.rows == 0) return;
  const bool vectorizable = Vectorizable(args.head_dim, {args.x, args.out});
  DispatchElements(args.x.dtype, vectorizable, [&]<typename T, int N>() {
    const HeadGroups groups =
        MakeHeadGroups(args.x.rows, args.x.cols / args.head_dim, args.head_dim, N);
    Check(LaunchChained(ActivateHeadsKernel<T, N>, HeadBlocks(groups), kHeadThreads, 0,
                        MakeCurrent(stream), stream.cuda()->can_chain, groups, args),
          "ActivateHeads");
  });
}

void OutputNorm(Stream& stream, const OutputNormArgs& args) {
  if (args.x.rows == 0) return;
  const bool vectorizable =
      Vectorizable(args.head_dim, {args.x, args.gate, args.out}) && IsAligned(args.weight);
  DispatchElements(args.x.dtype, vectorizable, [&]<typename T, int N>() {
    const HeadGroups groups =
        MakeHeadGroups(args.x.rows, args.x.cols / args.head_dim, args.head_dim, kKept * N);
    Check(LaunchChained(OutputNormKernel<T, N>, HeadBlocks(groups), kHeadThreads, 0,
                        MakeCurrent(stream), stream.cuda()->can_chain, groups, args),
          "OutputNorm");
  });
}

}  // namespace fla::cuda
