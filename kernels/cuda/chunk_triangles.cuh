// What a warp of the first kernel of prefill (chunk_prepare.cu) does whatever the decay: rows of
// queries and keys to registers, P and T of a chunk and head to its record.
//
// A lane l = 4 r + t has tokens r and r + 8 of the chunk and 8 neighbouring channels of every 32,
// which serves as A operand (rows are tokens) and as B operand (columns are tokens) alike: queries
// and keys never pass through shared memory. Tokens behind the sequence's end count as q = k = 0,
// decay 1, beta 0.
#pragma once

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/projected_inputs.cuh"

namespace fla::cuda {

static_assert(kChunk == 16);  // a tensor-core tile; half a warp

struct alignas(16) WarpScratch {
  float lower[kChunk][kChunk + 4];  // strictly lower triangle of beta K K^T decay
  __nv_bfloat16 attention[kChunk][kChunk];
  __nv_bfloat16 transform[kChunk][kChunk];
};
static_assert(sizeof(WarpScratch::lower[0]) % 16 == 0);  // rows are read four floats at a time

// 8 channels from `column` on of a row of bf16; `filler` where there is none.
__device__ __forceinline__ uint4 LoadRow(const void* data, int64_t row, int64_t stride, int column,
                                         bool valid, uint32_t filler = 0) {
  if (!valid) return make_uint4(filler, filler, filler, filler);
  return *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(data) + row * stride +
                                         column);
}

// 8 channels of a token's query and key of a head, from columns `q_column` and `k_column` on.
__device__ __forceinline__ void LoadQueryAndKey(const RecurrenceParams& p, int64_t row,
                                                int q_column, int k_column, bool valid,
                                                uint32_t (&q)[4], uint32_t (&k)[4]) {
  *reinterpret_cast<uint4*>(q) = LoadRow(p.q, row, p.q_stride, q_column, valid);
  *reinterpret_cast<uint4*>(k) = LoadRow(p.k, row, p.k_stride, k_column, valid);
}

// 8 channels of one token, times `scale`.
__device__ __forceinline__ void Unpack(const uint32_t (&packed)[4], float scale, float (&x)[8]) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    x[2 * w] = scale * Low(packed[w]);
    x[2 * w + 1] = scale * High(packed[w]);
  }
}

// P and, kDelta, T of one chunk and head to the record. attention and lower are C-layout tiles of
// columns 0-7 and 8-15, already masked, `lower` without beta; beta is of token lane % 16.
template <bool kDelta>
__device__ __forceinline__ void StoreTriangles(WarpScratch& scratch, char* record,
                                               const ChunkRecord& layout,
                                               const float (&attention)[2][4],
                                               const float (&lower)[2][4], float beta) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const float beta_of_rows[2] = {__shfl_sync(~0u, beta, r), __shfl_sync(~0u, beta, r + 8)};
  __syncwarp();
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = r + 8 * half, j = 8 * tile + 2 * t;
      *reinterpret_cast<uint32_t*>(&scratch.attention[i][j]) =
          Pack(attention[tile][2 * half], attention[tile][2 * half + 1]);
      if constexpr (kDelta) {
        *reinterpret_cast<float2*>(&scratch.lower[i][j]) =
            make_float2(beta_of_rows[half] * lower[tile][2 * half],
                        beta_of_rows[half] * lower[tile][2 * half + 1]);
      }
    }
  }
  __syncwarp();
  if constexpr (kDelta) {
    // Forward substitution in f32, a column a lane.
    const int j = lane % kChunk;
    float x[kChunk];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      float sum = i == j ? 1.0f : 0.0f;
#pragma unroll
      for (int m = 0; m < i; m += 4) {
        const float4 a = *reinterpret_cast<const float4*>(&scratch.lower[i][m]);
        sum -= a.x * x[m];
        if (m + 1 < i) sum -= a.y * x[m + 1];
        if (m + 2 < i) sum -= a.z * x[m + 2];
        if (m + 3 < i) sum -= a.w * x[m + 3];
      }
      x[i] = sum;
    }
    if (lane < kChunk) {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) scratch.transform[i][j] = __float2bfloat16(x[i] * beta);
    }
    __syncwarp();
    reinterpret_cast<uint4*>(record + layout.transform)[lane] =
        *reinterpret_cast<const uint4*>(&scratch.transform[lane % kChunk][lane / kChunk * 8]);
  }
  reinterpret_cast<uint4*>(record + layout.attention)[lane] =
      *reinterpret_cast<const uint4*>(&scratch.attention[lane % kChunk][lane / kChunk * 8]);
}

// Of token threadIdx.x % kChunk of the chunk, 0 behind its end.
__device__ __forceinline__ float LoadBeta(const RecurrenceParams& p,
                                          const RecurrenceProjections& from, const ChunkWork& work,
                                          int h) {
  const int i = threadIdx.x % kChunk;
  return i < work.num_tokens ? LoadBeta(p, from, work.first_token + i, h) : 0.0f;
}

}  // namespace fla::cuda
