// Scalar decays of a wide chunk, and what they weight.
#pragma once

#include "kernels/cuda/warpgroup.cuh"

namespace fla::cuda {

// Log decay of tokens lane and lane + 32 of the chunk, 0 behind its end.
__device__ __forceinline__ void LoadLogDecay(const RecurrenceParams& p, int first_token,
                                             int num_tokens, int h, float (&x)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = threadIdx.x % 32 + 32 * half;
    x[half] = i < num_tokens ? LoadLogDecay(p, first_token + i, h) : 0.0f;
  }
}

// Turns them into sums from the chunk's start through the token, of logarithms to base 2.
__device__ __forceinline__ void SumLogDecay(float (&x)[2]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (x[half] < -128.0f) x[half] = -128.0f;  // a decay of 0 in f32 anyway; a NaN stays
    x[half] *= kLog2E;
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
    decays[lane + 32 * half] = Exp2(sum[half]);
    decays[kWideChunk + lane + 32 * half] = Exp2(whole - sum[half]);
  }
}

// a b^T of 64 rows each, by one warpgroup: element (16 warp + r + 8 * (e / 2), 8 * tile + 2 t + e %
// 2). a and b are panels.
template <int kPanels>
__device__ __forceinline__ void MultiplyPanels(uint32_t a, uint32_t b, float (&product)[8][4]) {
  BeginProducts();
#pragma unroll
  for (int step = 0; step < 4 * kPanels; ++step) {
    const int offset = step / 4 * kPanelBytes + step % 4 * 32;
    WarpgroupMultiplyAdd(product, RowsDescriptor(a, offset), RowsDescriptor(b, offset), step > 0);
  }
  CommitProducts();
  WaitForProducts<0>();
  Settle(product);
}

// P to a triangle; `sum` as SumLogDecay leaves it.
//
// In the blocks below a warp's diagonal one, the decay from j to i goes over the token before the
// block's rows, decay(j -> boundary) decay(boundary -> i): an exponential a row and one a column.
__device__ __forceinline__ void StoreAttention(const float (&qk)[8][4], const float (&sum)[2],
                                               float scale, char* triangle) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const auto sum_through = [&](int i) {
    const float low = __shfl_sync(~0u, sum[0], i & 31), high = __shfl_sync(~0u, sum[1], i & 31);
    return i < 32 ? low : high;
  };
  const float boundary = sum_through(max(16 * warp - 1, 0));
  float sum_of_rows[2], scale_of_rows[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    sum_of_rows[half] = sum_through(16 * warp + r + 8 * half);
    scale_of_rows[half] = scale * Exp2(sum_of_rows[half] - boundary);
  }
#pragma unroll
  for (int tile = 0; tile < 8; ++tile) {
    if (tile >= 4 && warp < 2) break;
    const int j = 8 * tile + 2 * t;
    const float sums[2] = {__shfl_sync(~0u, sum[tile / 4], j & 31),
                           __shfl_sync(~0u, sum[tile / 4], (j & 31) + 1)};
    float attention[4] = {};
    if (tile / 2 < warp) {
      const float to_boundary[2] = {Exp2(boundary - sums[0]), Exp2(boundary - sums[1])};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        attention[e] = qk[tile][e] * (scale_of_rows[e / 2] * to_boundary[e % 2]);
      }
    } else if (tile / 2 == warp) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        // Above the diagonal it may be anything, and counts as 0.
        const int behind = r + 8 * (e / 2) - (8 * (tile % 2) + 2 * t + e % 2);
        const float decay = Exp2(sum_of_rows[e / 2] - sums[e % 2]);
        attention[e] = behind >= 0 ? qk[tile][e] * (scale * decay) : 0.0f;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t offset = TriangleOffset(16 * warp + r + 8 * half, tile);
      *reinterpret_cast<uint32_t*>(triangle + offset + 4 * t) =
          Pack(attention[2 * half], attention[2 * half + 1]);
    }
  }
}

}  // namespace fla::cuda
