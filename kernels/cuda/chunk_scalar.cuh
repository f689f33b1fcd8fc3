// What a warp of chunk_prepare.cu makes of a chunk where decay is none, per head or per token: the
// products of queries and keys once for a group of heads, of them P, T and the decays of each.
#pragma once

#include "kernels/cuda/chunk_triangles.cuh"

namespace fla::cuda {

// The heads of a group share their queries and keys.
template <bool kDelta>
__device__ __forceinline__ void PrepareScalar(const RecurrenceParams& p, const ChunkRecord& layout,
                                              const RecurrenceProjections& from,
                                              const ChunkWork& work,
                                              const ChunkWorkspace& workspace, int group_size,
                                              WarpScratch& scratch) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int64_t row = work.first_token + r;
  const bool valid[2] = {r < work.num_tokens, r + 8 < work.num_tokens};
  const int q_column = work.first_head / p.q_group * p.key_dim;
  const int k_column = work.first_head / p.k_group * p.key_dim;

  float qk[2][4] = {}, kk[2][4] = {};
#pragma unroll 2
  for (int c = 8 * t; c < p.key_dim + 8 * t; c += 32) {
    const bool inside = c < p.key_dim;
    uint32_t q[2][4], k[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      LoadQueryAndKey(p, row + 8 * half, q_column + c, k_column + c, inside && valid[half], q[half],
                      k[half]);
    }
#pragma unroll
    for (int w = 0; w < 4; w += 2) {
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        MultiplyAdd(qk[tile], q[0][w], q[1][w], q[0][w + 1], q[1][w + 1], k[tile][w],
                    k[tile][w + 1]);
        if constexpr (kDelta) {
          MultiplyAdd(kk[tile], k[0][w], k[1][w], k[0][w + 1], k[1][w + 1], k[tile][w],
                      k[tile][w + 1]);
        }
      }
    }
  }

  for (int h = work.first_head; h < work.first_head + group_size; ++h) {
    const int64_t number = static_cast<int64_t>(work.slot) * p.heads + h;
    char* const record = workspace.records + number * layout.bytes;
    const int i = lane % kChunk;
    float sum = 0.0f;  // of log decay up to token i; below -128 a decay is 0 in f32 anyway
    if (i < work.num_tokens) {
      sum = LoadLogDecay(p, from, work.first_token + i, h);
      if (sum < -128.0f) sum = -128.0f;  // a NaN stays
    }
#pragma unroll
    for (int distance = 1; distance < kChunk; distance *= 2) {
      const float before = __shfl_up_sync(~0u, sum, distance, kChunk);
      if (i >= distance) sum += before;
    }
    const float whole = __shfl_sync(~0u, sum, kChunk - 1);
    reinterpret_cast<float*>(record + layout.decay)[lane] =
        __expf(lane < kChunk ? sum : whole - sum);

    float attention[2][4], lower[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row_index = r + 8 * half;
      const float sum_of_row = __shfl_sync(~0u, sum, row_index);
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = 8 * tile + 2 * t + e;
          const float sum_of_column = __shfl_sync(~0u, sum, j);
          const float decay = row_index >= j ? __expf(sum_of_row - sum_of_column) : 0.0f;
          const int element = 2 * half + e;
          attention[tile][element] = row_index >= j ? p.scale * qk[tile][element] * decay : 0.0f;
          lower[tile][element] = row_index > j ? kk[tile][element] * decay : 0.0f;
        }
      }
    }
    StoreTriangles<kDelta>(scratch, record, layout, attention, lower,
                           kDelta ? LoadBeta(p, from, work, h) : 0.0f);
  }
}

}  // namespace fla::cuda
