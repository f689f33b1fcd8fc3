// The token-parallel half of prefill: everything in a chunk that does not need the state.
//
// A warp a (chunk, head) at a time, two in a block, the chunks in order; grid: any, and a last
// block that only waits (ChunkWorkspace::beside_scan). A lane l = 4 r + t has tokens r and r + 8 of
// the chunk and 8 neighbouring channels of every 32, which serves as A operand (rows are tokens)
// and as B operand (columns are tokens) alike: queries and keys never pass through shared memory.
// Tokens behind the sequence's end count as q = k = 0, decay 1, beta 0.
//
// Decay is never divided out. Per channel, the product of decays from token j to token i goes over
// the boundary m of the largest power-of-two block that parts them, decay(j -> m) decay(m -> i),
// both factors <= 1: for each of the four block sizes one tensor-core product, of whose entries
// those are kept whose pair it parts.
//
// From a layer's projections, queries and keys are normed as f32 factors on what is made of them:
// the sums of squares are the diagonal of a product, a first time over the chunk's rows, which the
// second time come from the L1 cache.
#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/projected_inputs.cuh"

namespace fla::cuda {
namespace {

constexpr int kWarps = 2;
constexpr int kMinBlocks = 6;  // an SM, which bounds registers

struct alignas(16) WarpScratch {
  float lower[kChunk][kChunk + 4];  // strictly lower triangle of beta K K^T decay
  __nv_bfloat16 attention[kChunk][kChunk];
  __nv_bfloat16 transform[kChunk][kChunk];
};

__device__ __forceinline__ uint4 LoadRow(const void* data, int64_t row, int64_t stride, int column,
                                         bool valid, uint32_t filler = 0) {
  if (!valid) return make_uint4(filler, filler, filler, filler);
  return *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(data) + row * stride +
                                         column);
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

// Decay none, per head or per token. The heads of a group share their queries and keys.
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
      *reinterpret_cast<uint4*>(q[half]) =
          LoadRow(p.q, row + 8 * half, p.q_stride, q_column + c, inside && valid[half]);
      *reinterpret_cast<uint4*>(k[half]) =
          LoadRow(p.k, row + 8 * half, p.k_stride, k_column + c, inside && valid[half]);
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

// Per channel, kLevel the block size: with prefix(i) the decay from the start of i's block through
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

// 8 channels of one token, times `scale`.
__device__ __forceinline__ void Unpack(const uint32_t (&packed)[4], float scale, float (&x)[8]) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    x[2 * w] = scale * Low(packed[w]);
    x[2 * w + 1] = scale * High(packed[w]);
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

__device__ __forceinline__ bool HasNorm(const RecurrenceProjections& from) {
  return from.q_norm != HeadNorm::kNone || from.k_norm != HeadNorm::kNone;
}

// What the norms multiply rows r and r + 8 by.
struct RowFactors {
  float q[2] = {1.0f, 1.0f}, k[2] = {1.0f, 1.0f};
};

__device__ __forceinline__ RowFactors FindNorms(const RecurrenceParams& p,
                                                const RecurrenceProjections& from,
                                                const ChunkWork& work, int q_column, int k_column) {
  RowFactors factors;
  if (!HasNorm(from)) return factors;
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int64_t row = work.first_token + r;
  float qq[2][4] = {}, kk[2][4] = {};
#pragma unroll 2
  for (int c = 8 * t; c < p.key_dim + 8 * t; c += 32) {
    uint32_t q[2][4], k[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool valid = c < p.key_dim && r + 8 * half < work.num_tokens;
      *reinterpret_cast<uint4*>(q[half]) =
          LoadRow(p.q, row + 8 * half, p.q_stride, q_column + c, valid);
      *reinterpret_cast<uint4*>(k[half]) =
          LoadRow(p.k, row + 8 * half, p.k_stride, k_column + c, valid);
    }
#pragma unroll
    for (int w = 0; w < 4; w += 2) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        MultiplyAdd(qq[half], q[0][w], q[1][w], q[0][w + 1], q[1][w + 1], q[half][w],
                    q[half][w + 1]);
        MultiplyAdd(kk[half], k[0][w], k[1][w], k[0][w + 1], k[1][w + 1], k[half][w],
                    k[half][w + 1]);
      }
    }
  }
  float q_squares[2], k_squares[2];
  TakeDiagonal(qq[0], qq[1], q_squares);
  TakeDiagonal(kk[0], kk[1], k_squares);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    factors.q[half] = FactorOfSquares(from.q_norm, q_squares[half], from.norm_eps);
    factors.k[half] = FactorOfSquares(from.k_norm, k_squares[half], from.norm_eps);
  }
  return factors;
}

// Multiplies queries and keys by their factors in what has been made of them: tiles of columns 0-7
// and 8-15.
template <bool kDelta>
__device__ __forceinline__ void ScaleTriangles(const RowFactors& factors, float (&attention)[2][4],
                                               float (&lower)[2][4]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float of_column = __shfl_sync(~0u, factors.k[tile], (2 * t + e) * 4);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        attention[tile][2 * half + e] *= factors.q[half] * of_column;
        if constexpr (kDelta) lower[tile][2 * half + e] *= factors.k[half] * of_column;
      }
    }
  }
}

// The gates of a lane's rows of one head.
class ChannelGates {
 public:
  __device__ __forceinline__ ChannelGates(const LogDecayArgs& args, int64_t row, int head,
                                          int key_dim)
      : args_(args),
        rate_(RateOf(args, head)),
        x_(RowOf<const __nv_bfloat16>(args.x, row) + head * key_dim),
        bias_(args.dt_bias != nullptr ? args.dt_bias + head * key_dim : nullptr) {}

  // Brings all channels of the chunk's tokens near: lines of 128 bytes, from token `row` on.
  static __device__ __forceinline__ void Prefetch(const LogDecayArgs& args, int64_t row, int head,
                                                  int key_dim, int tokens) {
    const int lane = threadIdx.x % 32, token = lane % kChunk;
    if (token >= tokens) return;
    const auto* const x = RowOf<const __nv_bfloat16>(args.x, row + token) + head * key_dim;
    for (int c = lane / kChunk * 64; c < key_dim; c += 128) PrefetchToL2(x + c);
  }

  // Channels [c, c + 8) of token r + 8 half, as they are in memory.
  __device__ __forceinline__ uint4 Load(int half, int c, bool valid) const {
    return LoadRow(x_, 8 * half, args_.x.stride, c, valid, OpenGates(args_.kind));
  }
  // Their decays.
  __device__ __forceinline__ void Open(const uint4& gates, int c, bool inside,
                                       float (&decay)[8]) const {
    Unpack(reinterpret_cast<const uint32_t(&)[4]>(gates), 1.0f, decay);
    if (bias_ != nullptr && inside) {
      float bias[8];
      cuda::Load(bias_ + c, bias);
#pragma unroll
      for (int i = 0; i < 8; ++i) decay[i] += bias[i];
    }
    DecaysOf(args_, rate_, decay);
  }

 private:
  const LogDecayArgs& args_;
  const float rate_;
  const __nv_bfloat16* const x_;
  const float* const bias_;
};

template <bool kDelta, bool kProjected>
__device__ __forceinline__ void PrepareChannel(const RecurrenceParams& p, const ChunkRecord& layout,
                                               const RecurrenceProjections& from,
                                               const ChunkWork& work,
                                               const ChunkWorkspace& workspace,
                                               WarpScratch& scratch) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4, h = work.first_head;
  const int64_t row = work.first_token + r;
  const int q_column = h / p.q_group * p.key_dim, k_column = h / p.k_group * p.key_dim;
  const int decay_head = h / p.decay_group;
  const int64_t decay_stride = static_cast<int64_t>(p.decay_heads) * p.key_dim;
  const float* const log_decay = p.log_decay + row * decay_stride + decay_head * p.key_dim;
  // On their way while the norms are made.
  if (kProjected && HasNorm(from)) {
    ChannelGates::Prefetch(from.log_decay, work.first_token, decay_head, p.key_dim,
                           work.num_tokens);
  }
  const ChannelGates gates(from.log_decay, row, decay_head, p.key_dim);
  const RowFactors factors =
      kProjected ? FindNorms(p, from, work, q_column, k_column) : RowFactors();
  const int64_t number = static_cast<int64_t>(work.slot) * p.heads + h;
  char* const record = workspace.records + number * layout.bytes;

  float level1[2][4] = {}, level2[2][4] = {}, level4[2][4] = {}, level8[1][4] = {};
  float diagonal[2] = {};
#pragma unroll 1
  for (int c = 8 * t; c < layout.max_k; c += 32) {
    const bool inside = c < p.key_dim;
    uint32_t q[2][4], k[2][4];
    uint4 gate[2];
    float prefix[2][8], suffix[2][8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool valid = inside && r + 8 * half < work.num_tokens;
      *reinterpret_cast<uint4*>(q[half]) =
          LoadRow(p.q, row + 8 * half, p.q_stride, q_column + c, valid);
      *reinterpret_cast<uint4*>(k[half]) =
          LoadRow(p.k, row + 8 * half, p.k_stride, k_column + c, valid);
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

// group_size: neighbouring heads with the same queries and keys; 1 per channel.
template <bool kDelta, bool kChannel, bool kProjected>
__global__ void __launch_bounds__(32 * kWarps, kMinBlocks)
    ChunkPrepareKernel(const RecurrenceParams p, const RecurrenceProjections from,
                       const ChunkRecord layout, const TokenWindow window,
                       const ChunkWorkspace workspace, const int group_size) {
  __shared__ WarpScratch scratch[kWarps];
  BeginNextKernel();  // ScanLaunch::beside_first
  if (blockIdx.x == gridDim.x - 1) return AwaitPreviousKernel();
  const int head_groups = p.heads / group_size;
  const int64_t count =
      static_cast<int64_t>((window.end - window.begin) / kChunk + p.num_sequences) * head_groups;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; index < count;
       index += static_cast<int64_t>(gridDim.x - 1) * kWarps) {
    const ChunkWork work = FindWork(p, window, index, head_groups, group_size);
    if (work.num_tokens == 0) continue;
    if constexpr (kChannel) {
      PrepareChannel<kDelta, kProjected>(p, layout, from, work, workspace,
                                         scratch[threadIdx.x / 32]);
    } else {
      PrepareScalar<kDelta>(p, layout, from, work, workspace, group_size,
                            scratch[threadIdx.x / 32]);
    }
  }
}

template <bool kDelta, bool kChannel, bool kProjected>
void Launch(const RecurrenceParams& p, const RecurrenceProjections& from, const ChunkRecord& record,
            TokenWindow window, const ChunkWorkspace& workspace, cudaStream_t stream) {
  const int group_size = !kChannel && p.q_group == p.k_group ? p.q_group : 1;
  const int64_t slots = (window.end - window.begin) / kChunk + p.num_sequences;
  const int64_t blocks = (slots * (p.heads / group_size) + kWarps - 1) / kWarps;
  Check(LaunchChained(ChunkPrepareKernel<kDelta, kChannel, kProjected>,
                      static_cast<unsigned>(blocks + 1), 32 * kWarps, 0, stream,
                      workspace.beside_scan, p, from, record, window, workspace, group_size),
        "ChunkPrepareKernel");
}

}  // namespace

void LaunchChunkPrepare(const RecurrenceParams& p, const RecurrenceProjections& from, Update update,
                        const ChunkRecord& record, TokenWindow window,
                        const ChunkWorkspace& workspace, cudaStream_t stream) {
  const bool delta = update == Update::kDelta;
  auto launch = delta ? Launch<true, false, false> : Launch<false, false, false>;
  if (p.decay == Decay::kPerChannel) {
    launch = delta ? Launch<true, true, false> : Launch<false, true, false>;
    if (from.present()) launch = delta ? Launch<true, true, true> : Launch<false, true, true>;
  }
  launch(p, from, record, window, workspace, stream);
}

}  // namespace fla::cuda
