// Decode where there are few states: a block loads its part of a state into registers, all loads at
// once, and stores it from there.
//
// A call of few states takes two to seven microseconds, so instructions count: there is nothing
// here that a shape in use does not need, and all loops have a length that is known. That is why it
// takes half the time of RecurrentKernel (step.cuh), which is for any shape and number of tokens.
//
// Grid (V / 4 kWarps, H, N), 32 kWarps threads: a block has 4 kWarps columns of one state's 32
// kRows rows, a thread kRows rows of 4 columns (step_token.cuh). bf16 activations, one token a
// sequence.
#pragma once

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/step_launch.h"
#include "kernels/cuda/step_token.cuh"

namespace fla::cuda {

// kCount neighbours, aligned to 4 kCount bytes or 16.
template <int kCount>
__device__ __forceinline__ void LoadNeighbours(const float* source, float (&x)[kCount]) {
  if constexpr (kCount == 2) {
    const float2 two = *reinterpret_cast<const float2*>(source);
    x[0] = two.x, x[1] = two.y;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = LoadFour(source + i);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  }
}
// kCount neighbours in one load.
template <int kCount>
__device__ __forceinline__ void LoadNeighbours(const __nv_bfloat16* source, float (&x)[kCount]) {
  uint32_t pairs[kCount / 2];
  if constexpr (kCount == 2) {
    pairs[0] = *reinterpret_cast<const uint32_t*>(source);
  } else if constexpr (kCount == 4) {
    const uint2 four = *reinterpret_cast<const uint2*>(source);
    pairs[0] = four.x, pairs[1] = four.y;
  } else {
    static_assert(kCount == 8);
    const uint4 eight = *reinterpret_cast<const uint4*>(source);
    pairs[0] = eight.x, pairs[1] = eight.y, pairs[2] = eight.z, pairs[3] = eight.w;
  }
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) x[2 * i] = Low(pairs[i]), x[2 * i + 1] = High(pairs[i]);
}

// Blocks that a multiprocessor has room for: 24 warps whose loads are all on their way, or more.
constexpr int LoadStepBlocks(int rows, int warps) { return (rows == 8 ? 24 : 32) / warps; }

// S state.
template <typename S, int kRows, int kWarps, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(32 * kWarps, LoadStepBlocks(kRows, kWarps))
    LoadStepKernel(const RecurrenceParams p) {
  constexpr int kLanes = kWarps, kKeyDim = 32 * kRows;
  __shared__ StepSums<kWarps, kLanes> sums;
  BeginNextKernel();
  const int n = blockIdx.z, slot = p.slots[n];
  if (slot < 0) return AwaitPreviousKernel();
  const StatePart part(p, kLanes, kWarps);
  const int first_row = threadIdx.x / kLanes * kRows;
  S* const state =
      static_cast<S*>(p.state) +
      (static_cast<int64_t>(slot * p.heads + part.head) * kKeyDim + first_row) * p.value_dim +
      part.column;
  Raw<S> raw[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) raw[i] = LoadState(state + i * p.value_dim);
  const __nv_bfloat16* const q = static_cast<const __nv_bfloat16*>(p.q) + n * p.q_stride +
                                 part.head / p.q_group * kKeyDim + first_row;
  const __nv_bfloat16* const k = static_cast<const __nv_bfloat16*>(p.k) + n * p.k_stride +
                                 part.head / p.k_group * kKeyDim + first_row;
  const __nv_bfloat16* const v = static_cast<const __nv_bfloat16*>(p.v) + n * p.v_stride +
                                 part.head / p.v_group * p.value_dim + part.column;
  const int decay_head =
      p.decay == Decay::kPerHead ? part.head : n * p.decay_heads + part.head / p.decay_group;
  AwaitPreviousKernel();

  float query[kRows], key[kRows];
  LoadNeighbours(q, query);
  LoadNeighbours(k, key);
  const float4 value = LoadFour(v);
  const float beta = kDelta ? p.beta[n * p.heads + part.head] : 1.0f;
  // Per channel the rows take their decays before the sums; else sums and rows take one after.
  float decay[kChannel ? kRows : 1] = {1.0f};
  if constexpr (kChannel) {
    LoadNeighbours(p.log_decay + static_cast<int64_t>(decay_head) * kKeyDim + first_row, decay);
#pragma unroll
    for (int i = 0; i < kRows; ++i) decay[i] = __expf(decay[i]);
  } else if (p.decay != Decay::kNone) {
    decay[0] = __expf(p.log_decay[decay_head]);
  }
  const float all = kChannel ? 1.0f : decay[0];

  float4 s[kRows];
  float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
  float q_dot_k = 0.0f;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    s[i] = Unpack(raw[i]);
    if constexpr (kChannel) Scale(s[i], decay[i]);
    AddScaled(from_q, query[i], s[i]);
    if constexpr (kDelta) AddScaled(from_k, key[i], s[i]);
    q_dot_k += query[i] * key[i];
  }
  if constexpr (!kChannel) Scale(from_q, all), Scale(from_k, all);
  AddUp<kDelta>(part, from_q, from_k, q_dot_k, sums);
  __syncthreads();
  const float4 u = UpdateOf<kDelta>(part, sums, value, beta);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if constexpr (!kChannel) Scale(s[i], all);
    AddScaled(s[i], key[i], u);
    StoreState(state + i * p.value_dim, s[i]);
  }
  StoreOut<__nv_bfloat16>(p, part, n, sums, u);
}

template <typename S, int kRows, int kWarps>
void LaunchLoadStepKernel(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  const dim3 grid(p.value_dim / (4 * kWarps), p.heads, p.num_sequences);
  const bool channel = p.decay == Decay::kPerChannel;
  const auto kernel = p.beta    ? channel ? LoadStepKernel<S, kRows, kWarps, true, true>
                                          : LoadStepKernel<S, kRows, kWarps, true, false>
                         : channel ? LoadStepKernel<S, kRows, kWarps, false, true>
                                : LoadStepKernel<S, kRows, kWarps, false, false>;
  Check(LaunchChained(kernel, grid, dim3(32 * kWarps), 0, stream, chained, p), "LoadStepKernel");
}

template <typename S>
void LaunchLoadStepOf(const RecurrenceParams& p, int columns, cudaStream_t stream, bool chained) {
  const bool narrow = columns == 16;
  switch (p.key_dim) {
    case 64:
      return (narrow ? LaunchLoadStepKernel<S, 2, 4> : LaunchLoadStepKernel<S, 2, 8>)(p, stream,
                                                                                      chained);
    case 128:
      return (narrow ? LaunchLoadStepKernel<S, 4, 4> : LaunchLoadStepKernel<S, 4, 8>)(p, stream,
                                                                                      chained);
    default:
      return (narrow ? LaunchLoadStepKernel<S, 8, 4> : LaunchLoadStepKernel<S, 8, 8>)(p, stream,
                                                                                      chained);
  }
}

}  // namespace fla::cuda
