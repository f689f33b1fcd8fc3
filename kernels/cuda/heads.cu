// Norms over heads: ActivateHeads (before the recurrence) and OutputNorm (after it).
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/head_norm.cuh"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

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

// Columns are shared out as in ActivateHeadsKernel.
// grid (T * H * lanes / block), block (kHeadThreads)
template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    OutputNormKernel(HeadGroups groups, OutputNormArgs args) {
  BeginNextKernel();
  AwaitPreviousKernel();
  const HeadLane at = FindHeadLane(groups);
  const int64_t offset = static_cast<int64_t>(at.head) * args.head_dim;
  const T* x = RowOf<const T>(args.x, at.token) + offset;
  const int first = at.lane * N, step = groups.lanes * N;

  float kept[N] = {};
  float sum = 0.0f;
  for (int column = first; column < args.head_dim; column += step) {
    float values[N];
    Load(x + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += values[i] * values[i];
      if (column == first) kept[i] = values[i];
    }
  }
  float factor = 1.0f;
  if (args.normalize) {
    factor = rsqrtf(GroupSum(groups, sum) / static_cast<float>(args.head_dim) + args.eps);
  }
  if (!at.valid) return;
  for (int column = first; column < args.head_dim; column += step) {
    float values[N];
    if (column == first) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] = kept[i];
    } else {
      Load(x + column, values);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= factor;
    if (args.normalize && args.weight != nullptr) {
      float weights[N];
      Load(args.weight + column, weights);
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] *= weights[i];
    }
    if (args.gate.data != nullptr) {
      float gates[N];
      Load(RowOf<const T>(args.gate, at.token) + offset + column, gates);
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] *= Activate<T>(args.gate_activation, gates[i]);
    }
    Store(RowOf<T>(args.out, at.token) + offset + column, values);
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
