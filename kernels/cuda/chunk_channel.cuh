// What a warp of chunk_prepare.cu makes of a chunk and head where decay is per channel: P, T, and
// queries and keys times their decays.
//
// Decay is never divided out. The product of decays from token j to token i goes over the boundary
// m of the largest power-of-two block that parts them, decay(j -> m) decay(m -> i), both factors
// <= 1: for each of the four block sizes one tensor-core product, of whose entries those are kept
// whose pair it parts.
#pragma once

#include "kernels/cuda/chunk_triangles.cuh"
#include "kernels/cuda/projected_channels.cuh"

namespace fla::cuda {

// kLevel is the block size: with prefix(i) the decay from the start of i's block through
// i and suffix(j) from behind j through the end of j's block, doubles the blocks.
template <int kLevel>
__device__ __forceinline__ void MergeBlocks(float (&prefix)[2][8], float (&suffix)[2][8],
                                            int lane) {
  if constexpr (kLevel == 8) {  // the two blocks are a lane's two tokens
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const float first = __shfl_sync(~0u, prefix[0][c], 28 + lane % 4);
      const float second = __shfl_sync(~0u, prefix[1][c], 28 + lane % 4);
      prefix[1][c] *= first;
      suffix[0][c] *= second;
    }
  } else {
    const bool upper = lane / 4 & kLevel;
    const int last_of_other = (((lane / 4) ^ kLevel) | (kLevel - 1)) * 4 + lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const float other = __shfl_sync(~0u, prefix[half][c], last_of_other);
        if (upper) {
          prefix[half][c] *= other;
        } else {
          suffix[half][c] *= other;
        }
      }
    }
  }
}

// Adds the products of the pairs that blocks of kLevel part: i in the upper block of a pair of
// blocks, j in the lower. For levels 1, 2, 4 both are in one half of the chunk, rows 0-7 with
// columns 0-7 and rows 8-15 with columns 8-15; for level 8 rows 8-15 with columns 0-7. A product
// has eight rows of queries and, kDelta, the same eight of keys: elements 0 and 1 are of q_r, 2 and
// 3 of k_r.
template <int kLevel, bool kDelta, int kHalves>
__device__ __forceinline__ void MultiplyLevel(const uint32_t (&q)[2][4], const uint32_t (&k)[2][4],
                                              const float (&prefix)[2][8],
                                              const float (&suffix)[2][8], int lane,
                                              float (&products)[kHalves][4]) {
  static_assert(kHalves == (kLevel == 8 ? 1 : 2));
  uint32_t scaled_q[2][4], scaled_k[2][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const bool upper = kLevel == 8 ? half == 1 : (lane / 4 & kLevel) != 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const float a = upper ? prefix[half][2 * w] : suffix[half][2 * w];
      const float b = upper ? prefix[half][2 * w + 1] : suffix[half][2 * w + 1];
      scaled_k[half][w] = Pack(a * Low(k[half][w]), b * High(k[half][w]));
      scaled_q[half][w] = Pack(a * Low(q[half][w]), b * High(q[half][w]));
    }
  }
#pragma unroll
  for (int w = 0; w < 4; w += 2) {
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const int rows = kLevel == 8 ? 1 : half;
      MultiplyAdd(products[half], scaled_q[rows][w], kDelta ? scaled_k[rows][w] : 0,
                  scaled_q[rows][w + 1], kDelta ? scaled_k[rows][w + 1] : 0, scaled_k[half][w],
                  scaled_k[half][w + 1]);
    }
  }
}

__device__ __forceinline__ void StoreScaled(char* target, const float (&x)[8],
                                            const float (&factor)[8]) {
  uint4 packed;
  uint32_t* const words = reinterpret_cast<uint32_t*>(&packed);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    words[w] = Pack(factor[2 * w] * x[2 * w], factor[2 * w + 1] * x[2 * w + 1]);
  }
  *reinterpret_cast<uint4*>(target) = packed;
}

// What warps of a block that share a chunk and head, each with its channels, add up.
template <int kWarps>
struct PartScratch {
  static constexpr int kSums = 30;
  float squares[kWarps][4][32];
  float sums[kWarps][kSums][32];
};
template <>
struct PartScratch<1> {};

// By kWarps warps, all of the block, each with every kWarps-th 32 channels; 1: by the warp alone.
template <bool kDelta, bool kProjected, int kWarps>
__device__ __forceinline__ void PrepareChannel(const RecurrenceParams& p, const ChunkRecord& layout,
                                               const RecurrenceProjections& from,
                                               const ChunkWork& work,
                                               const ChunkWorkspace& workspace,
                                               WarpScratch& scratch, PartScratch<kWarps>& parts) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4, h = work.first_head;
  const int64_t row = work.first_token + r;
  const int q_column = h / p.q_group * p.key_dim, k_column = h / p.k_group * p.key_dim;
  const int decay_head = h / p.decay_group;
  const int64_t decay_stride = static_cast<int64_t>(p.decay_heads) * p.key_dim;
  const float* const log_decay = p.log_decay + row * decay_stride + decay_head * p.key_dim;
  const int part = kWarps > 1 ? threadIdx.x / 32 : 0;
  // On their way while the norms are made.
  if (kProjected && HasNorm(from)) {
    ChannelGates::Prefetch(from.log_decay, work.first_token, decay_head, p.key_dim,
                           work.num_tokens);
  }
  const ChannelGates gates(from.log_decay, row, decay_head, p.key_dim);
  RowFactors factors;
  if (kProjected && HasNorm(from)) {
    float squares[4];
    FindSquares(p, work, q_column, k_column, 32 * part, 32 * kWarps, squares);
    if constexpr (kWarps > 1) {
#pragma unroll
      for (int i = 0; i < 4; ++i) parts.squares[part][i][lane] = squares[i];
      __syncthreads();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        squares[i] = parts.squares[0][i][lane];
#pragma unroll
        for (int warp = 1; warp < kWarps; ++warp) squares[i] += parts.squares[warp][i][lane];
      }
    }
    factors = FactorsOf(from, squares);
  }
  const int64_t number = static_cast<int64_t>(work.slot) * p.heads + h;
  char* const record = workspace.records + number * layout.bytes;

  float level1[2][4] = {}, level2[2][4] = {}, level4[2][4] = {}, level8[1][4] = {};
  float diagonal[2] = {};
#pragma unroll 1
  for (int c = 8 * t + 32 * part; c < layout.max_k; c += 32 * kWarps) {
    const bool inside = c < p.key_dim;
    uint32_t q[2][4], k[2][4];
    uint4 gate[2];
    float prefix[2][8], suffix[2][8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool valid = inside && r + 8 * half < work.num_tokens;
      LoadQueryAndKey(p, row + 8 * half, q_column + c, k_column + c, valid, q[half], k[half]);
      if constexpr (kProjected) {
        gate[half] = gates.Load(half, c, valid);
      } else {
        const float4* const source =
            reinterpret_cast<const float4*>(log_decay + 8 * half * decay_stride + c);
        const float4 zero = make_float4(0, 0, 0, 0);
        *reinterpret_cast<float4*>(prefix[half]) = valid ? source[0] : zero;
        *reinterpret_cast<float4*>(prefix[half] + 4) = valid ? source[1] : zero;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kProjected) gates.Open(gate[half], c, inside, prefix[half]);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (!kProjected) prefix[half][i] = __expf(prefix[half][i]);
        suffix[half][i] = 1.0f;
      }
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        diagonal[half] += Low(q[half][w]) * Low(k[half][w]) + High(q[half][w]) * High(k[half][w]);
      }
    }
    MultiplyLevel<1, kDelta>(q, k, prefix, suffix, lane, level1);
    MergeBlocks<1>(prefix, suffix, lane);
    MultiplyLevel<2, kDelta>(q, k, prefix, suffix, lane, level2);
    MergeBlocks<2>(prefix, suffix, lane);
    MultiplyLevel<4, kDelta>(q, k, prefix, suffix, lane, level4);
    MergeBlocks<4>(prefix, suffix, lane);
    MultiplyLevel<8, kDelta>(q, k, prefix, suffix, lane, level8);
    MergeBlocks<8>(prefix, suffix, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int offset = c / 8 * ChunkRecord::kColumns + (r + 8 * half) * 16;
      float query[8], key[8];
      Unpack(q[half], p.scale * factors.q[half], query);
      Unpack(k[half], factors.k[half], key);
      StoreScaled(record + layout.query + offset, query, prefix[half]);
      StoreScaled(record + layout.key_end + offset, key, suffix[half]);
      if constexpr (kDelta) StoreScaled(record + layout.key_start + offset, key, prefix[half]);
    }
    if (r == 7) {
      float4* const target = reinterpret_cast<float4*>(record + layout.decay) + c / 4;
      target[0] = make_float4(prefix[1][0], prefix[1][1], prefix[1][2], prefix[1][3]);
      target[1] = make_float4(prefix[1][4], prefix[1][5], prefix[1][6], prefix[1][7]);
    }
  }
  if constexpr (kWarps > 1) {
    // f(i, the lane's i-th sum)
    const auto for_sums = [&](auto f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          f(12 * half + i, level1[half][i]);
          f(12 * half + 4 + i, level2[half][i]);
          f(12 * half + 8 + i, level4[half][i]);
        }
        f(28 + half, diagonal[half]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) f(24 + i, level8[0][i]);
    };
    if (part > 0) for_sums([&](int i, float sum) { parts.sums[part][i][lane] = sum; });
    __syncthreads();
    if (part > 0) return;
    for_sums([&](int i, float& sum) {
#pragma unroll
      for (int warp = 1; warp < kWarps; ++warp) sum += parts.sums[warp][i][lane];
    });
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    diagonal[half] += __shfl_xor_sync(~0u, diagonal[half], 1);
    diagonal[half] += __shfl_xor_sync(~0u, diagonal[half], 2);
  }

  // Tiles of columns 0-7 and 8-15; rows r (elements 0, 1) and r + 8 (2, 3).
  float attention[2][4] = {}, lower[2][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int column = 2 * t + e, parted = r ^ column, element = 2 * half + e;
      const auto product = [&](int i) {
        return parted >= 4 ? level4[half][i] : parted >= 2 ? level2[half][i] : level1[half][i];
      };
      if (r > column) {
        attention[half][element] = p.scale * product(e);
        lower[half][element] = product(2 + e);
      } else if (r == column) {
        attention[half][element] = p.scale * diagonal[half];
      }
    }
  }
  attention[0][2] = p.scale * level8[0][0];
  attention[0][3] = p.scale * level8[0][1];
  lower[0][2] = level8[0][2];
  lower[0][3] = level8[0][3];
  if constexpr (kProjected) ScaleTriangles<kDelta>(factors, attention, lower);
  StoreTriangles<kDelta>(scratch, record, layout, attention, lower,
                         kDelta ? LoadBeta(p, from, work, h) : 0.0f);
}

template <bool kDelta, bool kProjected>
__device__ __forceinline__ void PrepareChannel(const RecurrenceParams& p, const ChunkRecord& layout,
                                               const RecurrenceProjections& from,
                                               const ChunkWork& work,
                                               const ChunkWorkspace& workspace,
                                               WarpScratch& scratch) {
  PartScratch<1> none;
  PrepareChannel<kDelta, kProjected, 1>(p, layout, from, work, workspace, scratch, none);
}

}  // namespace fla::cuda
