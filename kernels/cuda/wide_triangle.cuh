// Scalar decays of a wide chunk, and the triangles that they weight.
#pragma once

#include "kernels/cuda/warpgroup.cuh"

namespace fla::cuda {

// Log decay of tokens lane and lane + 32 of the chunk, 0 behind its end.
__device__ __forceinline__ void LoadLogDecay(const RecurrenceParams& p, int first_token,
                                             int num_tokens, int h, float (&x)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = threadIdx.x % 32 + 32 * half;
    x[half] = 0.0f;
    if (i >= num_tokens) continue;
    if (p.decay == Decay::kPerHead) {
      x[half] = p.log_decay[h];
    } else if (p.decay == Decay::kPerToken) {
      x[half] =
          p.log_decay[static_cast<int64_t>(first_token + i) * p.decay_heads + h / p.decay_group];
    }
  }
}

// Turns them into sums from the chunk's start through the token.
__device__ __forceinline__ void SumLogDecay(float (&x)[2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (x[half] < -128.0f) x[half] = -128.0f;  // a decay of 0 in f32 anyway; a NaN stays
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const float before = __shfl_up_sync(~0u, x[half], distance, 32);
      if (lane >= distance) x[half] += before;
    }
  }
  x[1] += __shfl_sync(~0u, x[0], 31);
}

// A warp writes the decays from the chunk's start through each token, then those from behind it to
// the end: f32 [2, 64].
__device__ __forceinline__ void StoreDecays(const float (&sum)[2], float* decays) {
  const int lane = threadIdx.x % 32;
  const float whole = __shfl_sync(~0u, sum[1], 31);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    decays[lane + 32 * half] = __expf(sum[half]);
    decays[kWideChunk + lane + 32 * half] = __expf(whole - sum[half]);
  }
}

// Q K^T (and, kDelta, K K^T), all of both by one warpgroup: element (16 warp + r + 8 * (e / 2), 8 *
// tile + 2 t + e % 2). q and k are panels.
template <int kPanels, bool kDelta>
__device__ __forceinline__ void MultiplyKeys(uint32_t q, uint32_t k, float (&qk)[8][4],
                                             float (&kk)[8][4]) {
  BeginProducts();
#pragma unroll
  for (int step = 0; step < 4 * kPanels; ++step) {
    const int offset = step / 4 * kPanelBytes + step % 4 * 32;
    WarpgroupMultiplyAdd(qk, RowsDescriptor(q + offset), RowsDescriptor(k + offset), step > 0);
  }
  if constexpr (kDelta) {
#pragma unroll
    for (int step = 0; step < 4 * kPanels; ++step) {
      const uint64_t keys = RowsDescriptor(k + step / 4 * kPanelBytes + step % 4 * 32);
      WarpgroupMultiplyAdd(kk, keys, keys, step > 0);
    }
  }
  CommitProducts();
  WaitForProducts<0>();
  Settle(qk);
  if constexpr (kDelta) Settle(kk);
}

// P to a panel and, kDelta, A to `triangle`, rows kStride floats apart. beta_of_rows: of rows r and
// r + 8 of this warp's 16.
template <bool kDelta, int kStride>
__device__ __forceinline__ void StoreTriangles(const float (&qk)[8][4], const float (&kk)[8][4],
                                               const float (&sum)[2], float scale,
                                               const float (&beta_of_rows)[2], char* panel,
                                               float* triangle) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  float sum_of_rows[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = 16 * warp + r + 8 * half;
    const float low = __shfl_sync(~0u, sum[0], i % 32), high = __shfl_sync(~0u, sum[1], i % 32);
    sum_of_rows[half] = i < 32 ? low : high;
  }
#pragma unroll
  for (int tile = 0; tile < 8; ++tile) {
    const int j = 8 * tile + 2 * t;
    const float sums[2] = {__shfl_sync(~0u, sum[tile / 4], j % 32),
                           __shfl_sync(~0u, sum[tile / 4], j % 32 + 1)};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 16 * warp + r + 8 * half;
      float attention[2] = {}, lower[2] = {};
      if (8 * tile < 16 * warp + 16) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          // Above the diagonal it may be anything, and counts as 0.
          const float decay = __expf(sum_of_rows[half] - sums[e]);
          const float product = scale * qk[tile][2 * half + e] * decay;
          attention[e] = i >= j + e ? product : 0.0f;
          if constexpr (kDelta) {
            const float key_product = beta_of_rows[half] * kk[tile][2 * half + e] * decay;
            lower[e] = i > j + e ? key_product : 0.0f;
          }
        }
      }
      *reinterpret_cast<uint32_t*>(panel + PanelOffset(i, tile) + 4 * t) =
          Pack(attention[0], attention[1]);
      if constexpr (kDelta) {
        *reinterpret_cast<float2*>(triangle + i * kStride + j) = make_float2(lower[0], lower[1]);
      }
    }
  }
}

}  // namespace fla::cuda
