// Norms over heads: ActivateHeads (before the recurrence) and OutputNorm (after it).
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/head_norm.cuh"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

// values *= activation(gates). The gates in use are made of a sigmoid: the code of the others,
// which is long, stands behind a branch that they do not take.
template <typename T, int N>
__device__ __forceinline__ void MultiplyActivated(Activation activation, const float (&gates)[N],
                                                  float (&values)[N]) {
  const bool silu = activation == Activation::kSilu;
  if (silu || activation == Activation::kSigmoid) {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= Sigmoid<T>(gates[i]) * (silu ? gates[i] : 1.0f);
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] *= Activate<T>(activation, gates[i]);
}

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
    Load(x + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[i] = Activate<T>(args.activation, values[i]);
      if (column == first) kept[i] = values[i];
      switch (args.norm) {
        case HeadNorm::kNone:
          break;
        case HeadNorm::kL2:
          sum += values[i] * values[i];
          break;
        case HeadNorm::kSum:
          sum += values[i];
          break;
        case HeadNorm::kL1:
          sum += fabsf(values[i]);
          break;
      }
    }
  }
  float factor = 1.0f;
  if (args.norm != HeadNorm::kNone) {
    factor = HeadNormFactor(args.norm, GroupSum(groups, sum), args.eps);
  }
  if (!at.valid) return;
  for (int column = first; column < args.head_dim; column += step) {
    float values[N];
    if (column != first) Load(x + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[i] = (column == first ? kept[i] : Activate<T>(args.activation, values[i])) * factor;
    }
    Store(out + column, values);
  }
}

// A lane takes columns lane * N, (lane + lanes) * N, ... of its head: pieces. All that it reads of
// the first kPieces is asked for before anything is waited for, the weights while the kernel before
// still runs: a decode step of few rows takes as long as its loads stand behind each other. Further
// pieces are read twice.
//
// grid (T * H * lanes / block), block (kHeadThreads)
template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    OutputNormKernel(HeadGroups groups, OutputNormArgs args) {
  constexpr int kPieces = 2;
  BeginNextKernel();
  const HeadLane at = FindHeadLane(groups);
  const int64_t offset = static_cast<int64_t>(at.head) * args.head_dim;
  const T* const x = RowOf<const T>(args.x, at.token) + offset;
  const bool gated = args.gate.data != nullptr;
  const T* const gate = gated ? RowOf<const T>(args.gate, at.token) + offset : nullptr;
  const float* const weight = args.normalize ? args.weight : nullptr;
  const int first = at.lane * N, step = groups.lanes * N;

  float values[kPieces][N] = {}, weights[kPieces][N], gates[kPieces][N];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int column = first + i * step;
    if (weight != nullptr && column < args.head_dim) Load(weight + column, weights[i]);
  }
  AwaitPreviousKernel();
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int column = first + i * step;
    if (column >= args.head_dim) continue;
    Load(x + column, values[i]);
    if (gated) Load(gate + column, gates[i]);
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) sum += values[i][j] * values[i][j];
  }
  for (int column = first + kPieces * step; column < args.head_dim; column += step) {
    float further[N];
    Load(x + column, further);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += further[j] * further[j];
  }
  float factor = 1.0f;
  if (args.normalize) {
    factor = rsqrtf(GroupSum(groups, sum) / static_cast<float>(args.head_dim) + args.eps);
  }
  if (!at.valid) return;
  T* const out = RowOf<T>(args.out, at.token) + offset;
  const auto finish = [&](int column, float(&of_x)[N], const float(&of_weight)[N],
                          const float(&of_gate)[N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      of_x[j] *= factor;
      if (weight != nullptr) of_x[j] *= of_weight[j];
    }
    if (gated) MultiplyActivated<T>(args.gate_activation, of_gate, of_x);
    Store(out + column, of_x);
  };
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int column = first + i * step;
    if (column < args.head_dim) finish(column, values[i], weights[i], gates[i]);
  }
  for (int column = first + kPieces * step; column < args.head_dim; column += step) {
    float of_x[N], of_weight[N], of_gate[N];
    Load(x + column, of_x);
    if (weight != nullptr) Load(weight + column, of_weight);
    if (gated) Load(gate + column, of_gate);
    finish(column, of_x, of_weight, of_gate);
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
        MakeHeadGroups(args.x.rows, args.x.cols / args.head_dim, args.head_dim, N);
    Check(LaunchChained(OutputNormKernel<T, N>, HeadBlocks(groups), kHeadThreads, 0,
                        MakeCurrent(stream), stream.cuda()->can_chain, groups, args),
          "OutputNorm");
  });
}

}  // namespace fla::cuda
