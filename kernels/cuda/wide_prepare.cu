// The token-parallel half of wide prefill, decay none, per head or per token: P and T of every
// chunk of 64 tokens.
//
// Grid (chunk slots x head groups, and a last block that only waits: ChunkWorkspace::beside_scan);
// a block is one warpgroup with one chunk and the heads that share its queries and keys. Q K^T and
// K K^T are made once, then for each head
//
//   P = scale Q K^T decay, lower triangle with the diagonal
//   T = (I + A)^-1 diag(beta), A = beta K K^T decay, strictly lower
//
// The inverse is block-recursive: 16x16 diagonal blocks by forward substitution in f32, a warp a
// block; then twice, for blocks of 16 and of 32, the lower left block X = -T_low A_low,up T_up by
// tf32 products. All in place, in shared memory.
#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/wide_record.cuh"
#include "kernels/cuda/wide_triangle.cuh"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128, kHeadsAtOnce = kThreads / 32;
constexpr int kStride = kWideChunk + 4;  // floats between the rows of the triangle

struct TriangleScratch {
  float triangle[kWideChunk][kStride];  // A, then its inverse
  // Of kHeadsAtOnce heads: sums of log decay up to the token, and beta.
  float sums[kHeadsAtOnce][kWideChunk];
  float beta[kHeadsAtOnce][kWideChunk];
};
// Shared memory: P (a panel), then q and k, whose place the triangle takes over.
constexpr int SharedBytes(int panels) {
  return kPanelBytes +
         std::max<int>(2 * panels * kPanelBytes, (sizeof(TriangleScratch) + 1023) / 1024 * 1024);
}

// Rows of q or k to panels; what is behind the sequence or the head is 0.
template <int kPanels>
__device__ __forceinline__ void LoadPanels(uint32_t target, const void* data, int64_t stride,
                                           int64_t first_element, int tokens, int columns) {
  constexpr int kPieces = 8 * kPanels, kRows = kThreads / kPieces;
  const int piece = threadIdx.x % kPieces, first_row = threadIdx.x / kPieces;
  const auto* const x = static_cast<const __nv_bfloat16*>(data);
#pragma unroll
  for (int row = first_row; row < kWideChunk + first_row; row += kRows) {
    const bool valid = row < tokens && 8 * piece < columns;
    CopyAsync(target + piece / 8 * kPanelBytes + PanelOffset(row, piece % 8),
              valid ? x + first_element + row * stride + 8 * piece : x, valid);
  }
}

// P to a panel, and A; sums and beta f32 [64], in shared memory.
__device__ __forceinline__ void StoreTriangles(const float (&qk)[8][4], const float (&kk)[8][4],
                                               const float* sums, float scale, const float* beta,
                                               char* panel,
                                               float (&triangle)[kWideChunk][kStride]) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = 16 * warp + r + 8 * half;
    const float sum_of_row = sums[i], beta_of_row = beta[i];
#pragma unroll
    for (int tile = 0; tile < 8; ++tile) {
      const int j = 8 * tile + 2 * t;
      float attention[2] = {}, lower[2] = {};
      if (8 * tile < 16 * warp + 16) {
        const float2 sum = *reinterpret_cast<const float2*>(sums + j);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          // Above the diagonal it may be anything, and counts as 0.
          const float decay = __expf(sum_of_row - (e == 0 ? sum.x : sum.y));
          const float product = scale * qk[tile][2 * half + e] * decay;
          attention[e] = i >= j + e ? product : 0.0f;
          const float key_product = beta_of_row * kk[tile][2 * half + e] * decay;
          lower[e] = i > j + e ? key_product : 0.0f;
        }
      }
      *reinterpret_cast<uint32_t*>(panel + PanelOffset(i, tile) + 4 * t) =
          Pack(attention[0], attention[1]);
      *reinterpret_cast<float2*>(&triangle[i][j]) = make_float2(lower[0], lower[1]);
    }
  }
}

// The rows and columns [block, block + 16) of the triangle, by one warp.
__device__ __forceinline__ void InvertDiagonalBlock(TriangleScratch& s, int block) {
  const int j = threadIdx.x % 16;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float even = i == j ? 1.0f : 0.0f, odd = 0.0f;
#pragma unroll
    for (int m = 0; m < i; m += 4) {
      const float4 a = *reinterpret_cast<const float4*>(&s.triangle[block + i][block + m]);
      even -= a.x * x[m];
      if (m + 1 < i) odd -= a.y * x[m + 1];
      if (m + 2 < i) even -= a.z * x[m + 2];
      if (m + 3 < i) odd -= a.w * x[m + 3];
    }
    x[i] = even + odd;
  }
  __syncwarp();
  if (threadIdx.x % 32 < 16) {
#pragma unroll
    for (int i = 0; i < 16; ++i) s.triangle[block + i][block + j] = x[i];
  }
}

// c += rows [row, row + 16 kRowTiles) x columns [column, column + kDepth) of the triangle, times
// its rows [depth_row, + kDepth) x columns [strip, strip + 8).
template <int kRowTiles, int kDepth>
__device__ __forceinline__ void MultiplyTriangle(const TriangleScratch& s, int row, int column,
                                                 int depth_row, int strip,
                                                 float (&c)[kRowTiles][4]) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll
  for (int k = 0; k < kDepth; k += 8) {
    const float b[2] = {s.triangle[depth_row + k + t][strip + r],
                        s.triangle[depth_row + k + t + 4][strip + r]};
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      const int i = row + 16 * tile + r, j = column + k + t;
      const float a[4] = {s.triangle[i][j], s.triangle[i + 8][j], s.triangle[i][j + 4],
                          s.triangle[i + 8][j + 4]};
      MultiplyAddTf32(c[tile], a, b);
    }
  }
}

template <int kRowTiles>
__device__ __forceinline__ void StoreStrip(TriangleScratch& s, int row, int strip, float sign,
                                           const float (&c)[kRowTiles][4]) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    *reinterpret_cast<float2*>(&s.triangle[row + 16 * tile + r][strip + 2 * t]) =
        make_float2(sign * c[tile][0], sign * c[tile][1]);
    *reinterpret_cast<float2*>(&s.triangle[row + 16 * tile + r + 8][strip + 2 * t]) =
        make_float2(sign * c[tile][2], sign * c[tile][3]);
  }
}

// Rows [block + kSize, block + 2 kSize) x columns [block, block + kSize): X = -T_low A T_up, both
// diagonal blocks being inverted. This warp makes 8 columns, `strip`. All warps call it together.
template <int kSize>
__device__ __forceinline__ void InvertLowerLeft(TriangleScratch& s, int block, int strip) {
  float product[kSize / 16][4] = {}, x[kSize / 16][4] = {};
  MultiplyTriangle<kSize / 16, kSize>(s, block + kSize, block, block, strip, product);
  __syncthreads();
  StoreStrip(s, block + kSize, strip, 1.0f, product);
  __syncwarp();
  MultiplyTriangle<kSize / 16, kSize>(s, block + kSize, block + kSize, block + kSize, strip, x);
  __syncwarp();
  StoreStrip(s, block + kSize, strip, -1.0f, x);
  __syncthreads();
}

}  // namespace

// Blocks an SM: bounds registers.
template <int kPanels>
__global__ void __launch_bounds__(kThreads, kPanels == 4 ? 3 : 5)
    WidePrepareKernel(const RecurrenceParams p, const TokenWindow window,
                      const ChunkWorkspace workspace, const int group_size) {
  constexpr WideRecord kRecord = MakeWideRecord(kPanels, true, false);
  extern __shared__ __align__(1024) char shared[];
  if (blockIdx.x == gridDim.x - 1) return AwaitPreviousKernel();
  auto& s = *reinterpret_cast<TriangleScratch*>(shared + kPanelBytes);
  const int head_groups = p.heads / group_size;
  const ChunkWork work = FindWork<kWideChunk>(p, window, blockIdx.x, head_groups, group_size);
  if (work.num_tokens == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  const uint32_t q = SharedAddress(shared) + kPanelBytes, k = q + kPanels * kPanelBytes;
  LoadPanels<kPanels>(q, p.q, p.q_stride,
                      work.first_token * p.q_stride + work.first_head / p.q_group * p.key_dim,
                      work.num_tokens, p.key_dim);
  LoadPanels<kPanels>(k, p.k, p.k_stride,
                      work.first_token * p.k_stride + work.first_head / p.k_group * p.key_dim,
                      work.num_tokens, p.key_dim);
  CommitCopies();
  WaitForCopies<0>();
  PublishToTensorCores();
  __syncthreads();

  float qk[8][4] = {}, kk[8][4] = {};
  MultiplyKeys<kPanels, true>(q, k, qk, kk);
  __syncthreads();  // q and k make way

  const auto record_of = [&](int h) {
    return workspace.records + (static_cast<int64_t>(work.slot) * p.heads + h) * kRecord.bytes;
  };
  for (int i = 0; i < group_size; ++i) {
    const int h = work.first_head + i, at_once = i % kHeadsAtOnce;
    char* const record = record_of(h);
    // A warp makes the decays of one of the next heads.
    if (at_once == 0 && i + warp < group_size) {
      float sum[2];
      LoadLogDecay(p, work.first_token, work.num_tokens, h + warp, sum);
#pragma unroll
      for (int token = lane; token < kWideChunk; token += 32) {
        s.beta[warp][token] =
            token < work.num_tokens
                ? p.beta[static_cast<int64_t>(work.first_token + token) * p.heads + h + warp]
                : 0.0f;
      }
      SumLogDecay(sum);
      StoreDecays(sum, reinterpret_cast<float*>(record_of(h + warp) + kRecord.decay));
      s.sums[warp][lane] = sum[0];
      s.sums[warp][lane + 32] = sum[1];
    }
    if (at_once == 0) __syncthreads();
    const float* const beta = s.beta[at_once];
    StoreTriangles(qk, kk, s.sums[at_once], p.scale, beta, shared, s.triangle);
    __syncthreads();
#pragma unroll
    for (int piece = threadIdx.x; piece < kPanelBytes / 16; piece += kThreads) {
      reinterpret_cast<uint4*>(record)[piece] = reinterpret_cast<const uint4*>(shared)[piece];
    }
    InvertDiagonalBlock(s, 16 * warp);
    __syncthreads();
    const int pair = warp / 2 * 32;
    InvertLowerLeft<16>(s, pair, pair + warp % 2 * 8);
    InvertLowerLeft<32>(s, 0, 8 * warp);
#pragma unroll
    for (int number = threadIdx.x; number < kPanelBytes / 16; number += kThreads) {
      const int row = number / 8, piece = number % 8;
      uint4 packed;
      auto* const words = reinterpret_cast<uint32_t*>(&packed);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const int j = 8 * piece + 2 * w;
        const float2 x = *reinterpret_cast<const float2*>(&s.triangle[row][j]);
        words[w] = Pack(j <= row ? x.x * beta[j] : 0.0f, j < row ? x.y * beta[j + 1] : 0.0f);
      }
      *reinterpret_cast<uint4*>(record + kPanelBytes + PanelOffset(row, piece)) = packed;
    }
    __syncthreads();  // the next head overwrites
  }
}

namespace {

template <int kPanels>
void Launch(const RecurrenceParams& p, TokenWindow window, const ChunkWorkspace& workspace,
            cudaStream_t stream) {
  const int group_size = p.q_group == p.k_group ? p.q_group : 1;
  const int64_t slots = (window.end - window.begin) / kWideChunk + p.num_sequences;
  const auto kernel = WidePrepareKernel<kPanels>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, SharedBytes(kPanels)),
        "cudaFuncSetAttribute");
  Check(LaunchChained(kernel, static_cast<unsigned>(slots * (p.heads / group_size) + 1), kThreads,
                      SharedBytes(kPanels), stream, workspace.beside_scan, p, window, workspace,
                      group_size),
        "WidePrepareKernel");
}

}  // namespace

void LaunchWidePrepare(const RecurrenceParams& p, TokenWindow window,
                       const ChunkWorkspace& workspace, cudaStream_t stream) {
  if (p.key_dim <= 64) {
    Launch<1>(p, window, workspace, stream);
  } else if (p.key_dim <= 128) {
    Launch<2>(p, window, workspace, stream);
  } else {
    Launch<4>(p, window, workspace, stream);
  }
}

}  // namespace fla::cuda
