// The token-parallel half of wide prefill, decay none, per head or per token: P and T of every
// chunk of 64 tokens.
//
// Grid (chunk slots x head groups); a block is one warpgroup with one chunk and the heads that
// share its queries and keys. Q K^T and K K^T are made once, then for each head
//
//   P = scale Q K^T decay, lower triangle with the diagonal
//   T = (I + A)^-1 diag(beta), A = beta K K^T decay, strictly lower
//
// The inverse is block-recursive: 16x16 diagonal blocks by forward substitution in f32, a warp a
// block; then twice, for blocks of 16 and of 32, the lower left block X = -T_low A_low,up T_up by
// tf32 products. All in place, in shared memory.
#include <algorithm>

#include "kernels/cuda/wide_record.cuh"
#include "kernels/cuda/wide_triangle.cuh"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kStride = kWideChunk + 4;  // floats between the rows of the triangle

struct TriangleScratch {
  float triangle[kWideChunk][kStride];  // A, then its inverse
  float beta[kWideChunk];
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
  auto& s = *reinterpret_cast<TriangleScratch*>(shared + kPanelBytes);
  const int head_groups = p.heads / group_size;
  const ChunkWork work = FindWork<kWideChunk>(p, window, blockIdx.x, head_groups, group_size);
  if (work.num_tokens == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;

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

  for (int h = work.first_head; h < work.first_head + group_size; ++h) {
    const int64_t number = static_cast<int64_t>(work.slot) * p.heads + h;
    char* const record = workspace.records + number * kRecord.bytes;
    const auto beta_of = [&](int i) {
      return i < work.num_tokens ? p.beta[static_cast<int64_t>(work.first_token + i) * p.heads + h]
                                 : 0.0f;
    };
    float sum[2];
    LoadLogDecay(p, work.first_token, work.num_tokens, h, sum);
    const float beta_of_rows[2] = {beta_of(16 * warp + r), beta_of(16 * warp + r + 8)};
    if (warp == 1) {
      s.beta[lane] = beta_of(lane);
      s.beta[lane + 32] = beta_of(lane + 32);
    }
    SumLogDecay(sum);
    if (warp == 0) StoreDecays(sum, reinterpret_cast<float*>(record + kRecord.decay));
    StoreTriangles<true, kStride>(qk, kk, sum, p.scale, beta_of_rows, shared, s.triangle[0]);
    __syncthreads();
#pragma unroll
    for (int i = threadIdx.x; i < kPanelBytes / 16; i += kThreads) {
      reinterpret_cast<uint4*>(record)[i] = reinterpret_cast<const uint4*>(shared)[i];
    }
    InvertDiagonalBlock(s, 16 * warp);
    __syncthreads();
    const int pair = warp / 2 * 32;
    InvertLowerLeft<16>(s, pair, pair + warp % 2 * 8);
    InvertLowerLeft<32>(s, 0, 8 * warp);
#pragma unroll
    for (int i = threadIdx.x; i < kPanelBytes / 16; i += kThreads) {
      const int row = i / 8, piece = i % 8;
      uint4 packed;
      auto* const words = reinterpret_cast<uint32_t*>(&packed);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const int j = 8 * piece + 2 * w;
        const float2 x = *reinterpret_cast<const float2*>(&s.triangle[row][j]);
        words[w] = Pack(j <= row ? x.x * s.beta[j] : 0.0f, j < row ? x.y * s.beta[j + 1] : 0.0f);
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
  WidePrepareKernel<kPanels><<<static_cast<unsigned>(slots * (p.heads / group_size)), kThreads,
                               SharedBytes(kPanels), stream>>>(p, window, workspace, group_size);
  CheckLaunch("WidePrepareKernel");
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
