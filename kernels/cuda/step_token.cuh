// One token of the recurrence, by a block that has some columns of a state: what the kernels of
// step.cuh and step_tile.cu share.
//
// The columns' K rows are dealt out in runs: lane l of warp w has columns 4 (l % lanes) .. + 3 of
// run w * 32 / lanes + l / lanes.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

__device__ __forceinline__ float ToFloat(float x) { return x; }
__device__ __forceinline__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void Assign(float& target, float x) { target = x; }
__device__ __forceinline__ void Assign(__nv_bfloat16& target, float x) {
  target = __float2bfloat16(x);
}

__device__ __forceinline__ float4 Unpack(uint2 u) {
  return make_float4(__uint_as_float(u.x << 16), __uint_as_float(u.x & 0xffff0000u),
                     __uint_as_float(u.y << 16), __uint_as_float(u.y & 0xffff0000u));
}
__device__ __forceinline__ uint2 PackFour(float4 s) {
  const __nv_bfloat162 a = __floats2bfloat162_rn(s.x, s.y), b = __floats2bfloat162_rn(s.z, s.w);
  return make_uint2(reinterpret_cast<const uint32_t&>(a), reinterpret_cast<const uint32_t&>(b));
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

// exp with the accuracy that the activations' type deserves.
template <typename T>
__device__ __forceinline__ float Exp(float x) {
  return sizeof(T) == 4 ? expf(x) : __expf(x);
}

// Sum over the lanes of a warp that share columns; lanes: 4, 8 or 16, at most kMaxLanes.
template <int kMaxLanes>
__device__ __forceinline__ float SumOverRuns(float x, int lanes) {
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
      : lanes(lanes),
        head(blockIdx.y),
        column_lane(threadIdx.x % lanes),
        column((blockIdx.x * lanes + column_lane) * 4),
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

// A thread's share of one token, T activations. In this order, with the thread's part of the state:
// Decay, AddUp, __syncthreads, Update, StoreOut.
//
// With S the decayed state: u = beta (v - S^T k), out = S^T q + (q . k) u, S += k u^T. One round of
// sums serves both products with S.
template <typename T, int kMaxRows, bool kDelta, bool kChannel>
class TokenStep {
 public:
  // Loads the token's inputs.
  __device__ __forceinline__ TokenStep(const RecurrenceParams& p, const StatePart& part,
                                       int64_t token)
      : p_(p), part_(part), token_(token) {
    const int h = part.head, decay_head = h / p.decay_group;
    const bool fours = part.rows % 4 == 0;
    LoadRun(static_cast<const T*>(p.k) + h / p.k_group * p.key_dim + part.first_row +
                token * p.k_stride,
            part.rows, fours && p.aligned_rows, key_);
    LoadRun(static_cast<const T*>(p.q) + h / p.q_group * p.key_dim + part.first_row +
                token * p.q_stride,
            part.rows, fours && p.aligned_rows, query_);
    value_ = make_float4(0, 0, 0, 0);
    if (part.active) {
      const T* const v = static_cast<const T*>(p.v) + h / p.v_group * p.value_dim + part.column +
                         token * p.v_stride;
      value_ = make_float4(ToFloat(v[0]), ToFloat(v[1]), ToFloat(v[2]), ToFloat(v[3]));
    }
    if constexpr (kDelta) beta_ = p.beta[token * p.heads + h];
    if constexpr (kChannel) {
      LoadRun(p.log_decay + (token * p.decay_heads + decay_head) * p.key_dim + part.first_row,
              part.rows, fours, decay_);
#pragma unroll
      for (int i = 0; i < kMaxRows; ++i) decay_[i] = Exp<T>(decay_[i]);
    } else if (p.decay != fla::Decay::kNone) {
      const bool per_head = p.decay == fla::Decay::kPerHead;
      decay_[0] = Exp<T>(p.log_decay[per_head ? h : token * p.decay_heads + decay_head]);
    }
  }

  __device__ __forceinline__ void Decay(float4 (&s)[kMaxRows]) const {
    if (!kChannel && p_.decay == fla::Decay::kNone) return;
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) Scale(s[i], decay_[kChannel ? i : 0]);
  }

  template <typename Sums>
  __device__ __forceinline__ void AddUp(const float4 (&s)[kMaxRows], Sums& sums) const {
    float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
    float q_dot_k = 0.0f;
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) {
      AddScaled(from_q, query_[i], s[i]);
      if constexpr (kDelta) AddScaled(from_k, key_[i], s[i]);
      q_dot_k += key_[i] * query_[i];
    }
    from_q = SumOverRuns<Sums::kLanes>(from_q, part_.lanes);
    if constexpr (kDelta) from_k = SumOverRuns<Sums::kLanes>(from_k, part_.lanes);
    q_dot_k = SumOverRuns<Sums::kLanes>(q_dot_k, part_.lanes);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (lane < part_.lanes) {
      sums.from_q[warp][lane] = from_q;
      if constexpr (kDelta) sums.from_k[warp][lane] = from_k;
      if (lane == 0) sums.q_dot_k[warp] = q_dot_k;
    }
  }

  // Returns u of the thread's columns.
  template <int kWarps, int kMaxLanes>
  __device__ __forceinline__ float4 Update(const StepSums<kWarps, kMaxLanes>& sums,
                                           float4 (&s)[kMaxRows]) const {
    float4 u = value_;
    if constexpr (kDelta) {
#pragma unroll
      for (int w = 0; w < kWarps; ++w) AddScaled(u, -1.0f, sums.from_k[w][part_.column_lane]);
      Scale(u, beta_);
    }
#pragma unroll
    for (int i = 0; i < kMaxRows; ++i) AddScaled(s[i], key_[i], u);
    return u;
  }

  // The first `lanes` threads store the block's columns of out.
  template <int kWarps, int kMaxLanes>
  __device__ __forceinline__ void StoreOut(const StepSums<kWarps, kMaxLanes>& sums,
                                           float4 u) const {
    if (threadIdx.x >= part_.lanes || !part_.active) return;
    float4 o = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      AddScaled(o, 1.0f, sums.from_q[w][part_.column_lane]);
      AddScaled(o, sums.q_dot_k[w], u);
    }
    T* const out =
        static_cast<T*>(p_.out) + part_.head * p_.value_dim + part_.column + token_ * p_.out_stride;
    Assign(out[0], p_.scale * o.x);
    Assign(out[1], p_.scale * o.y);
    Assign(out[2], p_.scale * o.z);
    Assign(out[3], p_.scale * o.w);
  }

 private:
  const RecurrenceParams& p_;
  const StatePart& part_;
  const int64_t token_;
  float query_[kMaxRows], key_[kMaxRows];
  float decay_[kChannel ? kMaxRows : 1];  // factors; not set where there is no decay
  float4 value_;
  float beta_;
};

}  // namespace fla::cuda
