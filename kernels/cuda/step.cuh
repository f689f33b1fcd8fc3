// The recurrence token by token with the state in registers, for any shape and any number of
// tokens: f32 activations, and decode where step_load.cuh and step_tile.cu have no kernel.
//
// Grid (V / columns, H, N), 128 threads; a block owns 4 * lanes columns of one state, lanes 8, or 4
// where there are few states. Who has which rows: step_token.cuh. Loads and stores are 16 bytes a
// thread, whole 128-byte lines a row, and all of a state's loads are in flight at once.
#pragma once

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/step_launch.h"
#include "kernels/cuda/step_token.cuh"

namespace fla::cuda {

// x[i] = row[i] for i < count, else 0. `fours`: count is a multiple of 4 and the row aligned to 4
// elements.
template <typename T, int kMaxRows>
__device__ __forceinline__ void LoadRun(const T* row, int count, bool fours, float (&x)[kMaxRows]) {
  if (fours) {
#pragma unroll
    for (int i = 0; i < kMaxRows; i += 4) {
      const float4 four = i < count ? LoadFour(row + i) : make_float4(0, 0, 0, 0);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) x[i] = i < count ? ToFloat(row[i]) : 0.0f;
  }
}

inline constexpr int kStepWarps = 4;

// A token's inputs of a thread, T activations.
template <typename T, int kMaxRows, bool kDelta, bool kChannel>
struct StepInputs {
  __device__ __forceinline__ StepInputs(const RecurrenceParams& p, const StatePart& part,
                                        int64_t token)
      : value(ValueOf<T>(p, part, token)),
        beta(kDelta ? p.beta[token * p.heads + part.head] : 1.0f) {
    const bool fours = part.rows % 4 == 0;
    LoadRun(static_cast<const T*>(p.k) + part.head / p.k_group * p.key_dim + part.first_row +
                token * p.k_stride,
            part.rows, fours && p.aligned_rows, key);
    LoadRun(static_cast<const T*>(p.q) + part.head / p.q_group * p.key_dim + part.first_row +
                token * p.q_stride,
            part.rows, fours && p.aligned_rows, query);
    const int64_t decay_head = token * p.decay_heads + part.head / p.decay_group;
    if constexpr (kChannel) {
      LoadRun(p.log_decay + decay_head * p.key_dim + part.first_row, part.rows, fours, decay);
#pragma unroll
      for (int i = 0; i < kMaxRows; ++i) decay[i] = Exp<T>(decay[i]);
    } else if (p.decay != Decay::kNone) {
      decay[0] = Exp<T>(p.log_decay[p.decay == Decay::kPerHead ? part.head : decay_head]);
    }
  }

  float query[kMaxRows], key[kMaxRows];
  float decay[kChannel ? kMaxRows : 1];  // factors; not set where there is no decay
  float4 value;
  float beta;
};

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
    s[i] = part.active && i < part.rows ? Unpack(LoadState(state + i * p.value_dim))
                                        : make_float4(0, 0, 0, 0);
  }
  AwaitPreviousKernel();
  for (int64_t token = begin; token < end; ++token) {
    const StepInputs<T, kMaxRows, kDelta, kChannel> in(p, part, token);
    auto& sum = sums[token % 2];
    if (kChannel || p.decay != Decay::kNone) {
#pragma unroll
      for (int i = 0; i < kMaxRows; ++i) Scale(s[i], in.decay[kChannel ? i : 0]);
    }
    float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
    float q_dot_k = 0.0f;
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      AddScaled(from_q, in.query[i], s[i]);
      if constexpr (kDelta) AddScaled(from_k, in.key[i], s[i]);
      q_dot_k += in.key[i] * in.query[i];
    }
    AddUp<kDelta>(part, from_q, from_k, q_dot_k, sum);
    __syncthreads();
    const float4 u = UpdateOf<kDelta>(part, sum, in.value, in.beta);
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) AddScaled(s[i], in.key[i], u);
    StoreOut<T>(p, part, token, sum, u);
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
