// The recurrence token by token with the state in registers. Memory bound: at decode a state is
// read and written once, and nothing else counts.
//
// Grid (V / columns, H, N), 128 threads; a block owns 4 * lanes columns of one state, lanes 8, or 4
// where there are few states. Who has which rows: step_token.cuh. Loads and stores are 16 bytes a
// thread, whole 128-byte lines a row, and all of a state's loads are in flight at once.
#pragma once

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/step_launch.h"
#include "kernels/cuda/step_token.cuh"

namespace fla::cuda {

__device__ __forceinline__ float4 LoadState(const float* x) {
  return __ldcs(reinterpret_cast<const float4*>(x));
}
__device__ __forceinline__ float4 LoadState(const __nv_bfloat16* x) {
  return Unpack(__ldcs(reinterpret_cast<const uint2*>(x)));
}
__device__ __forceinline__ void StoreState(float* x, float4 s) {
  __stcs(reinterpret_cast<float4*>(x), s);
}
__device__ __forceinline__ void StoreState(__nv_bfloat16* x, float4 s) {
  __stcs(reinterpret_cast<uint2*>(x), PackFour(s));
}

inline constexpr int kStepWarps = 4;

// T activations, S state, kMaxK at least K.
template <typename T, typename S, int kMaxK, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(32 * kStepWarps, 4)
    RecurrentKernel(const RecurrenceParams p, const int lanes) {
  constexpr int kMaxRows = kMaxK / 16;
  __shared__ StepSums<kStepWarps, 8> sums[2];
  BeginNextKernel();
  const int n = blockIdx.z;
  const int begin = p.cu_seqlens ? p.cu_seqlens[n] : n;
  const int end = p.cu_seqlens ? p.cu_seqlens[n + 1] : n + 1;
  if (begin >= end || p.slots[n] < 0) return AwaitPreviousKernel();
  const StatePart part(p, lanes, kStepWarps);

  const int64_t first_row =
      (static_cast<int64_t>(p.slots[n]) * p.heads + part.head) * p.key_dim + part.first_row;
  S* const state = static_cast<S*>(p.state) + first_row * p.value_dim + part.column;
  float4 s[kMaxRows];
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    s[i] =
        part.active && i < part.rows ? LoadState(state + i * p.value_dim) : make_float4(0, 0, 0, 0);
  }
  AwaitPreviousKernel();
  for (int64_t token = begin; token < end; ++token) {
    const TokenStep<T, kMaxRows, kDelta, kChannel> step(p, part, token);
    auto& sum = sums[token % 2];
    step.Decay(s);
    step.AddUp(s, sum);
    __syncthreads();
    const float4 u = step.Update(sum, s);
    step.StoreOut(sum, u);
  }
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (part.active && i < part.rows) StoreState(state + i * p.value_dim, s[i]);
  }
}

template <typename T, typename S, int kMaxK>
void LaunchRecurrentKernel(const RecurrenceParams& p, int columns, cudaStream_t stream,
                           bool chained) {
  const dim3 grid((p.value_dim + columns - 1) / columns, p.heads, p.num_sequences);
  constexpr int kThreads = 32 * kStepWarps;
  const bool channel = p.decay == Decay::kPerChannel;
  const auto kernel = p.beta    ? channel ? RecurrentKernel<T, S, kMaxK, true, true>
                                          : RecurrentKernel<T, S, kMaxK, true, false>
                         : channel ? RecurrentKernel<T, S, kMaxK, false, true>
                                : RecurrentKernel<T, S, kMaxK, false, false>;
  Check(LaunchChained(kernel, grid, dim3(kThreads), 0, stream, chained, p, columns / 4),
        "RecurrentKernel");
}

template <typename T, typename S>
void LaunchRecurrentOf(const RecurrenceParams& p, int columns, cudaStream_t stream, bool chained) {
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return LaunchRecurrentKernel<T, S, 64>(p, columns, stream, chained);
    case 128:
      return LaunchRecurrentKernel<T, S, 128>(p, columns, stream, chained);
    default:
      return LaunchRecurrentKernel<T, S, 256>(p, columns, stream, chained);
  }
}

}  // namespace fla::cuda
