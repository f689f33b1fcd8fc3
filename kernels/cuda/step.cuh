// The recurrence token by token with the state in registers. Memory bound: at decode a state is
// read and written once, and nothing else counts.
//
// Grid (V slices of 16 * warps, H, N); a warp owns all K rows of 16 columns of one state: lane l
// has columns 4 (l % 4) .. + 3 of rows (l / 4) K / 8 .. + K / 8, so loads and stores are 16 bytes
// wide and all of a state's loads are in flight at once. Warps share nothing.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

__device__ __forceinline__ float2 LoadPair(const float* x, bool paired) {
  return paired ? *reinterpret_cast<const float2*>(x) : make_float2(x[0], x[1]);
}
__device__ __forceinline__ float2 LoadPair(const __nv_bfloat16* x, bool paired) {
  if (paired) return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(x));
  return make_float2(__bfloat162float(x[0]), __bfloat162float(x[1]));
}
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
// Sum over the eight lanes that share columns.
__device__ __forceinline__ float SumOverRows(float x) {
  x += __shfl_xor_sync(~0u, x, 4);
  x += __shfl_xor_sync(~0u, x, 8);
  return x + __shfl_xor_sync(~0u, x, 16);
}
__device__ __forceinline__ float4 SumOverRows(float4 x) {
  return make_float4(SumOverRows(x.x), SumOverRows(x.y), SumOverRows(x.z), SumOverRows(x.w));
}

// T activations, S state, kMaxK at least K.
template <typename T, typename S, int kMaxK, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(128) RecurrentKernel(const RecurrenceParams p) {
  constexpr int kMaxRows = kMaxK / 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = (blockIdx.x * (blockDim.x / 32) + warp) * 16 + lane % 4 * 4;
  if (column >= p.value_dim) return;
  const int h = blockIdx.y, n = blockIdx.z;
  const int begin = p.cu_seqlens ? p.cu_seqlens[n] : n;
  const int end = p.cu_seqlens ? p.cu_seqlens[n + 1] : n + 1;
  if (begin >= end) return;

  const int rows = p.key_dim / 8, first_row = lane / 4 * rows;
  S* const state =
      static_cast<S*>(p.state) +
      ((static_cast<int64_t>(p.slots[n]) * p.heads + h) * p.key_dim + first_row) * p.value_dim +
      column;
  float4 s[kMaxRows];
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (i < rows) s[i] = LoadState(state + static_cast<int64_t>(i) * p.value_dim);
  }
  const T* const q = static_cast<const T*>(p.q) + h / p.q_group * p.key_dim + first_row;
  const T* const k = static_cast<const T*>(p.k) + h / p.k_group * p.key_dim + first_row;
  const T* const v = static_cast<const T*>(p.v) + h / p.v_group * p.value_dim + column;
  T* const out = static_cast<T*>(p.out) + h * p.value_dim + column;
  const int decay_head = h / p.decay_group;

  for (int64_t token = begin; token < end; ++token) {
    const T* const q_row = q + token * p.q_stride;
    const T* const k_row = k + token * p.k_stride;
    const T* const v_row = v + token * p.v_stride;
    float alpha = 1.0f;
    const float* channel_decay = nullptr;
    if constexpr (kChannel) {
      channel_decay = p.log_decay + (token * p.decay_heads + decay_head) * p.key_dim + first_row;
    } else if (p.decay == Decay::kPerHead) {
      alpha = expf(p.log_decay[h]);
    } else if (p.decay == Decay::kPerToken) {
      alpha = expf(p.log_decay[token * p.decay_heads + decay_head]);
    }
    // With S the decayed state: u = beta (v - S^T k), out = S^T q + (q . k) u, S += k u^T. One
    // reduction serves both products with S.
    float keys[kMaxRows];
    float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
    float q_dot_k = 0.0f;
#pragma unroll
    for (int i = 0; i < kMaxRows; i += 2) {
      if (i >= rows) continue;
      const float2 key = LoadPair(k_row + i, p.paired_rows);
      const float2 query = LoadPair(q_row + i, p.paired_rows);
      if constexpr (kChannel) {
        const float2 log_decay = *reinterpret_cast<const float2*>(channel_decay + i);
        Scale(s[i], expf(log_decay.x));
        Scale(s[i + 1], expf(log_decay.y));
      } else {
        Scale(s[i], alpha);
        Scale(s[i + 1], alpha);
      }
      keys[i] = key.x;
      keys[i + 1] = key.y;
      AddScaled(from_q, query.x, s[i]);
      AddScaled(from_q, query.y, s[i + 1]);
      if constexpr (kDelta) {
        AddScaled(from_k, key.x, s[i]);
        AddScaled(from_k, key.y, s[i + 1]);
      }
      q_dot_k += key.x * query.x + key.y * query.y;
    }
    float4 u =
        make_float4(ToFloat(v_row[0]), ToFloat(v_row[1]), ToFloat(v_row[2]), ToFloat(v_row[3]));
    if constexpr (kDelta) {
      AddScaled(u, -1.0f, SumOverRows(from_k));
      Scale(u, p.beta[token * p.heads + h]);
    }
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      if (i < rows) AddScaled(s[i], keys[i], u);
    }
    from_q = SumOverRows(from_q);
    AddScaled(from_q, SumOverRows(q_dot_k), u);
    if (lane < 4) {
      T* const o = out + token * p.out_stride;
      Assign(o[0], p.scale * from_q.x);
      Assign(o[1], p.scale * from_q.y);
      Assign(o[2], p.scale * from_q.z);
      Assign(o[3], p.scale * from_q.w);
    }
  }
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (i < rows) StoreState(state + static_cast<int64_t>(i) * p.value_dim, s[i]);
  }
}

// Few states: a warp a block, so that every SM has some.
template <typename T, typename S, int kMaxK>
void LaunchRecurrentKernel(const RecurrenceParams& p, cudaStream_t stream) {
  const int slices = p.value_dim / 16;
  const int warps = static_cast<int64_t>(slices) * p.heads * p.num_sequences > 1024 ? 4 : 1;
  const dim3 grid((slices + warps - 1) / warps, p.heads, p.num_sequences);
  const bool channel = p.decay == Decay::kPerChannel;
  if (p.beta) {
    if (channel) {
      RecurrentKernel<T, S, kMaxK, true, true><<<grid, 32 * warps, 0, stream>>>(p);
    } else {
      RecurrentKernel<T, S, kMaxK, true, false><<<grid, 32 * warps, 0, stream>>>(p);
    }
  } else if (channel) {
    RecurrentKernel<T, S, kMaxK, false, true><<<grid, 32 * warps, 0, stream>>>(p);
  } else {
    RecurrentKernel<T, S, kMaxK, false, false><<<grid, 32 * warps, 0, stream>>>(p);
  }
  CheckLaunch("RecurrentKernel");
}

template <typename T, typename S>
void LaunchRecurrentOf(const RecurrenceParams& p, cudaStream_t stream) {
  if (p.key_dim <= 64) {
    LaunchRecurrentKernel<T, S, 64>(p, stream);
  } else if (p.key_dim <= 128) {
    LaunchRecurrentKernel<T, S, 128>(p, stream);
  } else {
    LaunchRecurrentKernel<T, S, 256>(p, stream);
  }
}

void LaunchRecurrentF32(const RecurrenceParams& p, cudaStream_t stream);
void LaunchRecurrentBf16(const RecurrenceParams& p, cudaStream_t stream);
void LaunchRecurrentBf16State(const RecurrenceParams& p, cudaStream_t stream);

}  // namespace fla::cuda
