// The recurrence token by token with the state in registers. Memory bound: at decode a state is
// read and written once, and nothing else counts.
//
// Grid (V / columns, H, N), 128 threads; a block owns 4 * lanes columns of one state, lanes 8, or 4
// where there are few states. The columns' K rows are dealt out in runs: lane l of warp w has
// columns 4 (l % lanes) .. + 3 of run w * 32 / lanes + l / lanes. Loads and stores are 16 bytes a
// thread, whole 128-byte lines a row, and all of a state's loads are in flight at once.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void Assign(float& target, float x) { target = x; }
__device__ __forceinline__ void Assign(__nv_bfloat16& target, float x) {
  target = __float2bfloat16(x);
}

__device__ __forceinline__ float4 LoadState(const float* x) {
  return __ldcs(reinterpret_cast<const float4*>(x));
}
__device__ __forceinline__ void StoreState(float* x, float4 s) {
  __stcs(reinterpret_cast<float4*>(x), s);
}
__device__ __forceinline__ float4 LoadState(const __nv_bfloat16* x) {
  const uint2 u = __ldcs(reinterpret_cast<const uint2*>(x));
  return make_float4(__uint_as_float(u.x << 16), __uint_as_float(u.x & 0xffff0000u),
                     __uint_as_float(u.y << 16), __uint_as_float(u.y & 0xffff0000u));
}
__device__ __forceinline__ void StoreState(__nv_bfloat16* x, float4 s) {
  const __nv_bfloat162 a = __floats2bfloat162_rn(s.x, s.y), b = __floats2bfloat162_rn(s.z, s.w);
  __stcs(reinterpret_cast<uint2*>(x),
         make_uint2(reinterpret_cast<const uint32_t&>(a), reinterpret_cast<const uint32_t&>(b)));
}

__device__ __forceinline__ void Scale(float4& s, float a) {
  s.x *= a, s.y *= a, s.z *= a, s.w *= a;
}
__device__ __forceinline__ void AddScaled(float4& s, float a, float4 x) {
  s.x += a * x.x, s.y += a * x.y, s.z += a * x.z, s.w += a * x.w;
}
// x[i] = row[i] for i < count, else 0. `fours`: count is a multiple of 4 and the row aligned to 4
// elements.
template <int kMaxRows>
__device__ __forceinline__ void LoadRun(const float* row, int count, bool fours,
                                        float (&x)[kMaxRows]) {
  if (fours) {
#pragma unroll
    for (int i = 0; i < kMaxRows; i += 4) {
      const float4 four =
          i < count ? *reinterpret_cast<const float4*>(row + i) : make_float4(0, 0, 0, 0);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) x[i] = i < count ? row[i] : 0.0f;
  }
}
template <int kMaxRows>
__device__ __forceinline__ void LoadRun(const __nv_bfloat16* row, int count, bool fours,
                                        float (&x)[kMaxRows]) {
  if (fours) {
#pragma unroll
    for (int i = 0; i < kMaxRows; i += 4) {
      const uint2 four = i < count ? *reinterpret_cast<const uint2*>(row + i) : make_uint2(0, 0);
      x[i] = __uint_as_float(four.x << 16), x[i + 1] = __uint_as_float(four.x & 0xffff0000u);
      x[i + 2] = __uint_as_float(four.y << 16), x[i + 3] = __uint_as_float(four.y & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) x[i] = i < count ? __bfloat162float(row[i]) : 0.0f;
  }
}

// exp with the accuracy that the activations' type deserves.
template <typename T>
__device__ __forceinline__ float Exp(float x) {
  return sizeof(T) == 4 ? expf(x) : __expf(x);
}

// Sum over the lanes of a warp that share columns.
__device__ __forceinline__ float SumOverRuns(float x, int lanes) {
  x += __shfl_xor_sync(~0u, x, 16);
  x += __shfl_xor_sync(~0u, x, 8);
  if (lanes == 4) x += __shfl_xor_sync(~0u, x, 4);
  return x;
}
__device__ __forceinline__ float4 SumOverRuns(float4 x, int lanes) {
  return make_float4(SumOverRuns(x.x, lanes), SumOverRuns(x.y, lanes), SumOverRuns(x.z, lanes),
                     SumOverRuns(x.w, lanes));
}

inline constexpr int kStepWarps = 4;

// What a block's warps add up for one token.
struct StepSums {
  float4 from_q[kStepWarps][8], from_k[kStepWarps][8];
  float q_dot_k[kStepWarps];
};

// T activations, S state, kMaxK at least K.
template <typename T, typename S, int kMaxK, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(32 * kStepWarps, 4)
    RecurrentKernel(const RecurrenceParams p, const int lanes) {
  constexpr int kMaxRows = kMaxK / 16;
  __shared__ StepSums sums[2];
  BeginNextKernel();
  const int h = blockIdx.y, n = blockIdx.z;
  const int begin = p.cu_seqlens ? p.cu_seqlens[n] : n;
  const int end = p.cu_seqlens ? p.cu_seqlens[n + 1] : n + 1;
  if (begin >= end || p.slots[n] < 0) return AwaitPreviousKernel();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column_lane = lane % lanes;
  const int column = (blockIdx.x * lanes + column_lane) * 4;
  const bool active = column < p.value_dim;
  const int rows = p.key_dim * lanes / (32 * kStepWarps);
  const int first_row = (threadIdx.x / lanes) * rows;

  S* const state =
      static_cast<S*>(p.state) +
      ((static_cast<int64_t>(p.slots[n]) * p.heads + h) * p.key_dim + first_row) * p.value_dim +
      column;
  float4 s[kMaxRows];
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    s[i] = active && i < rows ? LoadState(state + i * p.value_dim) : make_float4(0, 0, 0, 0);
  }
  AwaitPreviousKernel();
  const T* const q = static_cast<const T*>(p.q) + h / p.q_group * p.key_dim + first_row;
  const T* const k = static_cast<const T*>(p.k) + h / p.k_group * p.key_dim + first_row;
  const T* const v = static_cast<const T*>(p.v) + h / p.v_group * p.value_dim + column;
  T* const out = static_cast<T*>(p.out) + h * p.value_dim + column;
  const int decay_head = h / p.decay_group;
  const bool fours = rows % 4 == 0;

  for (int64_t token = begin; token < end; ++token) {
    StepSums& sum = sums[token % 2];
    float query[kMaxRows], key[kMaxRows];
    LoadRun(k + token * p.k_stride, rows, fours && p.aligned_rows, key);
    LoadRun(q + token * p.q_stride, rows, fours && p.aligned_rows, query);
    float4 u = make_float4(0, 0, 0, 0);
    if (active) {
      const T* const v_row = v + token * p.v_stride;
      u = make_float4(ToFloat(v_row[0]), ToFloat(v_row[1]), ToFloat(v_row[2]), ToFloat(v_row[3]));
    }
    if constexpr (kChannel) {
      float log_decay[kMaxRows];
      LoadRun(p.log_decay + (token * p.decay_heads + decay_head) * p.key_dim + first_row, rows,
              fours, log_decay);
#pragma unroll
      for (int i = 0; i < kMaxRows; ++i) Scale(s[i], Exp<T>(log_decay[i]));
    } else if (p.decay != Decay::kNone) {
      const float alpha =
          Exp<T>(p.log_decay[p.decay == Decay::kPerHead ? h : token * p.decay_heads + decay_head]);
#pragma unroll
      for (int i = 0; i < kMaxRows; ++i) Scale(s[i], alpha);
    }
    // With S the decayed state: u = beta (v - S^T k), out = S^T q + (q . k) u, S += k u^T. One
    // round of sums serves both products with S.
    float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
    float q_dot_k = 0.0f;
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      AddScaled(from_q, query[i], s[i]);
      if constexpr (kDelta) AddScaled(from_k, key[i], s[i]);
      q_dot_k += key[i] * query[i];
    }
    from_q = SumOverRuns(from_q, lanes);
    if constexpr (kDelta) from_k = SumOverRuns(from_k, lanes);
    q_dot_k = SumOverRuns(q_dot_k, lanes);
    if (lane < lanes) {
      sum.from_q[warp][lane] = from_q;
      if constexpr (kDelta) sum.from_k[warp][lane] = from_k;
      if (lane == 0) sum.q_dot_k[warp] = q_dot_k;
    }
    __syncthreads();
    if constexpr (kDelta) {
#pragma unroll
      for (int w = 0; w < kStepWarps; ++w) AddScaled(u, -1.0f, sum.from_k[w][column_lane]);
      Scale(u, p.beta[token * p.heads + h]);
    }
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) AddScaled(s[i], key[i], u);
    if (warp == 0 && lane < lanes && active) {
      float4 o = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = 0; w < kStepWarps; ++w) {
        AddScaled(o, 1.0f, sum.from_q[w][lane]);
        AddScaled(o, sum.q_dot_k[w], u);
      }
      T* const target = out + token * p.out_stride;
      Assign(target[0], p.scale * o.x);
      Assign(target[1], p.scale * o.y);
      Assign(target[2], p.scale * o.z);
      Assign(target[3], p.scale * o.w);
    }
  }
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (active && i < rows) StoreState(state + i * p.value_dim, s[i]);
  }
}

template <typename T, typename S, int kMaxK>
void LaunchRecurrentKernel(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  const int64_t states = static_cast<int64_t>(p.heads) * p.num_sequences;
  const bool few = p.value_dim / 32 * states < 2 * Multiprocessors();
  const int lanes = few && p.key_dim % 32 == 0 ? 4 : 8, columns = 4 * lanes;
  const dim3 grid((p.value_dim + columns - 1) / columns, p.heads, p.num_sequences);
  constexpr int kThreads = 32 * kStepWarps;
  const bool channel = p.decay == Decay::kPerChannel;
  const auto kernel = p.beta    ? channel ? RecurrentKernel<T, S, kMaxK, true, true>
                                          : RecurrentKernel<T, S, kMaxK, true, false>
                         : channel ? RecurrentKernel<T, S, kMaxK, false, true>
                                : RecurrentKernel<T, S, kMaxK, false, false>;
  Check(LaunchChained(kernel, grid, dim3(kThreads), 0, stream, chained, p, lanes),
        "RecurrentKernel");
}

template <typename T, typename S>
void LaunchRecurrentOf(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return LaunchRecurrentKernel<T, S, 64>(p, stream, chained);
    case 128:
      return LaunchRecurrentKernel<T, S, 128>(p, stream, chained);
    default:
      return LaunchRecurrentKernel<T, S, 256>(p, stream, chained);
  }
}

// `chained`: see LaunchChained; the states are loaded while the kernel before still runs.
void LaunchRecurrentF32(const RecurrenceParams& p, cudaStream_t stream, bool chained = false);
void LaunchRecurrentBf16(const RecurrenceParams& p, cudaStream_t stream, bool chained = false);
void LaunchRecurrentBf16State(const RecurrenceParams& p, cudaStream_t stream, bool chained = false);

}  // namespace fla::cuda
