// One token of the recurrence, by a block that has some columns of a state: what the kernels of
// step.cuh, step_load.cuh and step_tile.cu share.
//
// The columns' K rows are dealt out in runs: lane l of warp w has columns 4 (l % lanes) .. + 3 of
// run w * 32 / lanes + l / lanes.
#pragma once

#include <cuda_bf16.h>

#include <type_traits>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

__device__ __forceinline__ float4 Unpack(float4 s) { return s; }
__device__ __forceinline__ float4 Unpack(uint2 u) {
  return make_float4(__uint_as_float(u.x << 16), __uint_as_float(u.x & 0xffff0000u),
                     __uint_as_float(u.y << 16), __uint_as_float(u.y & 0xffff0000u));
}
__device__ __forceinline__ uint2 PackFour(float4 s) {
  const __nv_bfloat162 a = __floats2bfloat162_rn(s.x, s.y), b = __floats2bfloat162_rn(s.z, s.w);
  return make_uint2(reinterpret_cast<const uint32_t&>(a), reinterpret_cast<const uint32_t&>(b));
}

// Four elements of a state as they lie in memory.
template <typename S>
using Raw = std::conditional_t<sizeof(S) == 4, float4, uint2>;

// Of a state in memory that is not touched again soon.
__device__ __forceinline__ float4 LoadState(const float* x) {
  return __ldcs(reinterpret_cast<const float4*>(x));
}
__device__ __forceinline__ uint2 LoadState(const __nv_bfloat16* x) {
  return __ldcs(reinterpret_cast<const uint2*>(x));
}
__device__ __forceinline__ void StoreState(float* x, float4 s) {
  __stcs(reinterpret_cast<float4*>(x), s);
}
__device__ __forceinline__ void StoreState(__nv_bfloat16* x, float4 s) {
  __stcs(reinterpret_cast<uint2*>(x), PackFour(s));
}

// Four neighbouring elements, aligned to their size.
__device__ __forceinline__ float4 LoadFour(const float* x) {
  return *reinterpret_cast<const float4*>(x);
}
__device__ __forceinline__ float4 LoadFour(const __nv_bfloat16* x) {
  return Unpack(*reinterpret_cast<const uint2*>(x));
}
__device__ __forceinline__ void StoreFour(float* x, float4 s) { *reinterpret_cast<float4*>(x) = s; }
__device__ __forceinline__ void StoreFour(__nv_bfloat16* x, float4 s) {
  *reinterpret_cast<uint2*>(x) = PackFour(s);
}

__device__ __forceinline__ void Scale(float4& s, float a) {
  s.x *= a, s.y *= a, s.z *= a, s.w *= a;
}
__device__ __forceinline__ void AddScaled(float4& s, float a, float4 x) {
  s.x += a * x.x, s.y += a * x.y, s.z += a * x.z, s.w += a * x.w;
}

// exp with the accuracy that the activations' type deserves.
template <typename T>
__device__ __forceinline__ float Exp(float x) {
  return sizeof(T) == 4 ? expf(x) : __expf(x);
}

// By what a row of a state is multiplied before a token; T activations.
template <typename T>
__device__ __forceinline__ float DecayFactor(const RecurrenceParams& p, int head, int64_t token,
                                             int row) {
  const int64_t decay_head = token * p.decay_heads + head / p.decay_group;
  switch (p.decay) {
    case Decay::kNone:
      return 1.0f;
    case Decay::kPerHead:
      return Exp<T>(p.log_decay[head]);
    case Decay::kPerToken:
      return Exp<T>(p.log_decay[decay_head]);
    case Decay::kPerChannel:
      return Exp<T>(p.log_decay[decay_head * p.key_dim + row]);
  }
  return 1.0f;
}

// Sum over the lanes of a warp that share columns; lanes: 4, 8 or 16, at most kMaxLanes.
template <int kMaxLanes>
__device__ __forceinline__ float SumOverRuns(float x, int lanes) {
  static_assert(kMaxLanes == 4 || kMaxLanes == 8 || kMaxLanes == 16);
  x += __shfl_xor_sync(~0u, x, 16);
  if (kMaxLanes <= 8) x += __shfl_xor_sync(~0u, x, 8);
  if (kMaxLanes <= 8 && lanes == 4) x += __shfl_xor_sync(~0u, x, 4);
  return x;
}
template <int kMaxLanes>
__device__ __forceinline__ float4 SumOverRuns(float4 x, int lanes) {
  return make_float4(SumOverRuns<kMaxLanes>(x.x, lanes), SumOverRuns<kMaxLanes>(x.y, lanes),
                     SumOverRuns<kMaxLanes>(x.z, lanes), SumOverRuns<kMaxLanes>(x.w, lanes));
}

// What a thread has of its block's columns: a run of rows, four columns. Grid (V / columns, H, N).
struct StatePart {
  __device__ __forceinline__ StatePart(const RecurrenceParams& p, int lanes, int warps)
      : StatePart(p, lanes, warps, blockIdx.x, blockIdx.y) {}
  __device__ __forceinline__ StatePart(const RecurrenceParams& p, int lanes, int warps, int slice,
                                       int head)
      : lanes(lanes),
        head(head),
        column_lane(threadIdx.x % lanes),
        column((slice * lanes + column_lane) * 4),
        rows(p.key_dim * lanes / (32 * warps)),
        first_row(threadIdx.x / lanes * rows),
        active(column < p.value_dim) {}

  int lanes, head, column_lane, column, rows, first_row;
  bool active;  // there are such columns
};

// What a block's warps add up for one token.
template <int kWarps, int kMaxLanes>
struct StepSums {
  static constexpr int kLanes = kMaxLanes;
  float4 from_q[kWarps][kMaxLanes], from_k[kWarps][kMaxLanes];
  float q_dot_k[kWarps];
};

// With S the decayed state: u = beta (v - S^T k), out = S^T q + (q . k) u, S += k u^T. One round of
// sums serves both products with S.

// v of the thread's columns.
template <typename T>
__device__ __forceinline__ float4 ValueOf(const RecurrenceParams& p, const StatePart& part,
                                          int64_t token) {
  if (!part.active) return make_float4(0, 0, 0, 0);
  const T* const v = static_cast<const T*>(p.v) + part.head / p.v_group * p.value_dim +
                     part.column + token * p.v_stride;
  return make_float4(ToFloat(v[0]), ToFloat(v[1]), ToFloat(v[2]), ToFloat(v[3]));
}

// The block's sums of what each thread has of S^T q, kDelta: S^T k, and q . k. They are there after
// a __syncthreads.
template <bool kDelta, int kWarps, int kMaxLanes>
__device__ __forceinline__ void AddUp(const StatePart& part, float4 from_q, float4 from_k,
                                      float q_dot_k, StepSums<kWarps, kMaxLanes>& sums) {
  from_q = SumOverRuns<kMaxLanes>(from_q, part.lanes);
  if constexpr (kDelta) from_k = SumOverRuns<kMaxLanes>(from_k, part.lanes);
  q_dot_k = SumOverRuns<kMaxLanes>(q_dot_k, part.lanes);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane < part.lanes) {
    sums.from_q[warp][lane] = from_q;
    if constexpr (kDelta) sums.from_k[warp][lane] = from_k;
    if (lane == 0) sums.q_dot_k[warp] = q_dot_k;
  }
}

// u of the thread's columns.
template <bool kDelta, int kWarps, int kMaxLanes>
__device__ __forceinline__ float4 UpdateOf(const StatePart& part,
                                           const StepSums<kWarps, kMaxLanes>& sums, float4 value,
                                           float beta) {
  if constexpr (kDelta) {
#pragma unroll
    for (int w = 0; w < kWarps; ++w) AddScaled(value, -1.0f, sums.from_k[w][part.column_lane]);
    Scale(value, beta);
  }
  return value;
}

// The thread's columns of out, but for the scale.
template <int kWarps, int kMaxLanes>
__device__ __forceinline__ float4 OutputOf(const StatePart& part,
                                           const StepSums<kWarps, kMaxLanes>& sums, float4 u) {
  float4 o = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    AddScaled(o, 1.0f, sums.from_q[w][part.column_lane]);
    AddScaled(o, sums.q_dot_k[w], u);
  }
  return o;
}

// The first `lanes` threads store the block's columns of out.
template <typename T, int kWarps, int kMaxLanes>
__device__ __forceinline__ void StoreOut(const RecurrenceParams& p, const StatePart& part,
                                         int64_t token, const StepSums<kWarps, kMaxLanes>& sums,
                                         float4 u) {
  if (threadIdx.x >= part.lanes || !part.active) return;
  float4 o = OutputOf(part, sums, u);
  T* const out =
      static_cast<T*>(p.out) + part.head * p.value_dim + part.column + token * p.out_stride;
  Scale(o, p.scale);
  if (p.aligned_out) return StoreFour(out, o);
  out[0] = FromFloat<T>(o.x);
  out[1] = FromFloat<T>(o.y);
  out[2] = FromFloat<T>(o.z);
  out[3] = FromFloat<T>(o.w);
}

}  // namespace fla::cuda
