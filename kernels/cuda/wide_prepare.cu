// The token-parallel half of wide prefill, decay none, per head or per token: P and T of every
// chunk of 64 tokens.
//
// Grid (chunk slots x head groups, and a last block that only waits: ChunkWorkspace::beside_scan);
// a block is one warpgroup with one chunk and the heads that share its queries and keys. Together
// its warps make Q K^T and K K^T, once. Then each P and each T of a head is a warp's alone:
//
//   P = scale Q K^T decay, lower triangle with the diagonal
//   T = (I + A)^-1 diag(beta), A = beta K K^T decay, strictly lower
//
// The inverse is block-recursive. Diagonal blocks of 16x16 by forward substitution in f32, a lane a
// column; then, for blocks of 16 and of 32, the lower left one X = -T_low A T_up by tf32 products
// in registers (wide_block.cuh). K K^T is symmetric: A's blocks are there as such and transposed.
// Shared memory passes the products to the warps, and P and T to the copy engine.
#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/projected_inputs.cuh"
#include "kernels/cuda/wide_block.cuh"
#include "kernels/cuda/wide_record.cuh"
#include "kernels/cuda/wide_triangle.cuh"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kHeadsAtOnce = kWarps;

// The decays and write strengths of the heads at hand: sums of log decay, to base 2, up to the
// token, and beta.
struct HeadScalars {
  float sums[kHeadsAtOnce][kWideChunk];
  float beta[kHeadsAtOnce][kWideChunk];
};
// Shared memory: q and k as panels, then in their place Q K^T and K K^T as fragments and a panel a
// warp; behind them HeadScalars.
//
// Of Q K^T there is the lower triangle. Of K K^T it is the upper one, block (j, i) where the
// triangle has (i, j), but for (1, 0), which is itself.
constexpr int kFragments = kTriangleBlocks * kBlockBytes;
constexpr int ScalarsOffset(int panels) {
  return std::max(2 * panels * kPanelBytes, 2 * kFragments + kWarps * kPanelBytes);
}
constexpr int SharedBytes(int panels) { return ScalarsOffset(panels) + sizeof(HeadScalars); }

// The diagonal blocks of A while they are inverted, in the warp's panel: rows that begin in
// different banks, and two blocks at a time in different halves of the banks.
constexpr int kRowStride = 20, kBlockStride = 16 * kRowStride + 16;
static_assert(4 * kBlocks * kBlockStride <= kPanelBytes);

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

// Row `warp` of blocks of both products to fragments.
__device__ __forceinline__ void StoreProducts(const float (&qk)[8][4], const float (&kk)[8][4],
                                              char* fragments) {
  const int row = threadIdx.x / 32;
#pragma unroll
  for (int column = 0; column < kBlocks; ++column) {
    const float(&q)[2][4] = *reinterpret_cast<const float(*)[2][4]>(&qk[2 * column]);
    const float(&k)[2][4] = *reinterpret_cast<const float(*)[2][4]>(&kk[2 * column]);
    if (column <= row) StoreFragment(fragments, TriangleBlock(row, column), q[0], q[1]);
    if (row == 1 && column == 0) {
      StoreFragment(fragments + kFragments, TriangleBlock(1, 0), k[0], k[1]);
    } else if (row <= column && !(row == 0 && column == 1)) {
      StoreFragment(fragments + kFragments, TriangleBlock(column, row), k[0], k[1]);
    }
  }
}

// How a decay from j to i is split where i's block is behind j's: at the token before i's block, so
// that both factors are products of numbers <= 1.
__device__ __forceinline__ float Boundary(const float* sums, int block) {
  return sums[16 * block - 1];
}
template <int kCount>
__device__ __forceinline__ void DecaysFrom(float boundary, float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = Exp2(sums[i] - boundary);
}
template <int kCount>
__device__ __forceinline__ void DecaysTo(float boundary, float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] = Exp2(boundary - sums[i]);
}

// block[i][j] *= of_rows[i] decay(j -> i) where j < i or, kDiagonal, j <= i, else 0.
template <bool kDiagonal>
__device__ __forceinline__ void DecayDiagonalBlock(Block& block, const float* sums,
                                                   const float (&of_rows)[2]) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  float rows[2], columns[2][2];
  LoadOfRows(sums, rows);
  LoadOfColumns(sums, columns);
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int behind = r + 8 * (e / 2) - (8 * tile + 2 * t + e % 2);
      // Above the diagonal it may be anything, and counts as 0.
      const float decay = Exp2(rows[e / 2] - columns[tile][e % 2]);
      const bool counts = kDiagonal ? behind >= 0 : behind > 0;
      block[tile][e] = counts ? block[tile][e] * (of_rows[e / 2] * decay) : 0.0f;
    }
  }
}

// P to the warp's panel.
__device__ __forceinline__ void MakeAttention(const char* products, const float* sums, float scale,
                                              char* panel_memory, uint32_t panel) {
  const float scales[2] = {scale, scale};
#pragma unroll 1
  for (int row = 0; row < kBlocks; ++row) {
    float of_rows[2];
    LoadOfRows(sums + 16 * row, of_rows);
    const float boundary = row > 0 ? Boundary(sums, row) : 0.0f;
    DecaysFrom(boundary, of_rows);
    of_rows[0] *= scale, of_rows[1] *= scale;
#pragma unroll
    for (int column = 0; column < kBlocks; ++column) {
      if (column > row) {
        StoreZerosToPanel(panel_memory, row, column);
        continue;
      }
      Block block;
      LoadFragment(products, TriangleBlock(row, column), block);
      if (column < row) {
        float of_columns[2][2];
        LoadOfColumns(sums + 16 * column, of_columns);
        for (auto& pair : of_columns) DecaysTo(boundary, pair);
        ScaleBlock(block, of_rows, of_columns);
      } else {
        DecayDiagonalBlock<true>(block, sums + 16 * row, scales);
      }
      StoreToPanel(panel, row, column, block);
    }
  }
}

// -A of diagonal blocks, as rows of kRowStride numbers.
__device__ __forceinline__ void StoreDiagonalBlocks(const char* products, const float* sums,
                                                    const float* beta, float* blocks) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll 1
  for (int i = 0; i < kBlocks; ++i) {
    Block block;
    LoadFragment(products, TriangleBlock(i, i), block);
    float of_rows[2];
    LoadOfRows(beta + 16 * i, of_rows);
    of_rows[0] = -of_rows[0], of_rows[1] = -of_rows[1];
    DecayDiagonalBlock<false>(block, sums + 16 * i, of_rows);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      *reinterpret_cast<float2*>(blocks + i * kBlockStride + (r + e / 2 * 8) * kRowStride +
                                 e % 2 * 8 + 2 * t) =
          make_float2(block[e % 2][e / 2 * 2], block[e % 2][e / 2 * 2 + 1]);
    }
  }
}

// From -A to the transpose of (I + A)^-1, of numbers of tf32: a lane has a column of two inverses.
__device__ __forceinline__ void InvertDiagonalBlocks(float* blocks) {
  const int lane = threadIdx.x % 32, j = lane % 16;
  float* const block = blocks + lane / 16 * kBlockStride;
  float x[2][16];
#pragma unroll
  for (int i = 0; i < 16; ++i) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      float even = i == j ? 1.0f : 0.0f, odd = 0.0f;
#pragma unroll
      for (int m = 0; m < i; m += 4) {
        const float4 a =
            *reinterpret_cast<const float4*>(block + 2 * pair * kBlockStride + i * kRowStride + m);
        even += a.x * x[pair][m];
        if (m + 1 < i) odd += a.y * x[pair][m + 1];
        if (m + 2 < i) even += a.z * x[pair][m + 2];
        if (m + 3 < i) odd += a.w * x[pair][m + 3];
      }
      x[pair][i] = even + odd;
    }
  }
  __syncwarp();
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
      float4 rounded;
      rounded.x = RoundToTf32(x[pair][i]), rounded.y = RoundToTf32(x[pair][i + 1]);
      rounded.z = RoundToTf32(x[pair][i + 2]), rounded.w = RoundToTf32(x[pair][i + 3]);
      *reinterpret_cast<float4*>(block + 2 * pair * kBlockStride + j * kRowStride + i) = rounded;
    }
  }
  __syncwarp();
}

// A block that is there as rows, and its transpose.
__device__ __forceinline__ void LoadRows(const float* rows, Block& block) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float2 pair =
        *reinterpret_cast<const float2*>(rows + (r + e / 2 * 8) * kRowStride + e % 2 * 8 + 2 * t);
    block[e % 2][e / 2 * 2] = pair.x, block[e % 2][e / 2 * 2 + 1] = pair.y;
  }
}
__device__ __forceinline__ void LoadColumns(const float* rows, Block& transposed) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      transposed[tile][e] = rows[(8 * tile + 2 * t + e % 2) * kRowStride + r + e / 2 * 8];
    }
  }
}

// Block (row, column < row) of -A, of numbers of tf32: transposed or, of (1, 0), as it is.
__device__ __forceinline__ void LoadLowerBlock(const char* products, const float* sums,
                                               const float* beta, int row, int column,
                                               Block& block) {
  const float boundary = Boundary(sums, row);
  const bool transposed = row > 1;
  LoadFragment(products, TriangleBlock(row, column), block);
  float of_rows[2], of_columns[2][2];
  LoadOfRows(sums + 16 * (transposed ? column : row), of_rows);
  LoadOfColumns(sums + 16 * (transposed ? row : column), of_columns);
  if (transposed) {
    float beta_of_columns[2][2];
    LoadOfColumns(beta + 16 * row, beta_of_columns);
    DecaysTo(boundary, of_rows);
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      DecaysFrom(boundary, of_columns[tile]);
      of_columns[tile][0] *= -beta_of_columns[tile][0];
      of_columns[tile][1] *= -beta_of_columns[tile][1];
    }
  } else {
    float beta_of_rows[2];
    LoadOfRows(beta + 16 * row, beta_of_rows);
    DecaysFrom(boundary, of_rows);
    of_rows[0] *= -beta_of_rows[0], of_rows[1] *= -beta_of_rows[1];
    for (auto& pair : of_columns) DecaysTo(boundary, pair);
  }
  ScaleBlock(block, of_rows, of_columns);
  RoundToTf32(block);
}

// T to the warp's panel.
__device__ __forceinline__ void MakeTransform(const char* products, const float* sums,
                                              const float* beta, char* panel_memory,
                                              uint32_t panel) {
  auto* const diagonal = reinterpret_cast<float*>(panel_memory);
  StoreDiagonalBlocks(products, sums, beta, diagonal);
  __syncwarp();
  InvertDiagonalBlocks(diagonal);
  // Of the inverse; `t`: transposed.
  Block t00, x11, t11, x22, t22, x33;
  LoadRows(diagonal, t00);
  LoadRows(diagonal + kBlockStride, t11);
  LoadColumns(diagonal + kBlockStride, x11);
  LoadRows(diagonal + 2 * kBlockStride, t22);
  LoadColumns(diagonal + 2 * kBlockStride, x22);
  LoadColumns(diagonal + 3 * kBlockStride, x33);
  __syncwarp();

  const auto store = [&](int row, int column, Block x) {
    const float ones[2] = {1.0f, 1.0f};
    float of_columns[2][2];
    LoadOfColumns(beta + 16 * column, of_columns);
    ScaleBlock(x, ones, of_columns);
    StoreToPanel(panel, row, column, x);
  };
  const auto store_transpose = [&](int row, int column, Block transposed) {
    const float ones[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}};
    float of_rows[2];
    LoadOfRows(beta + 16 * column, of_rows);
    ScaleBlock(transposed, of_rows, ones);
    StoreTransposeToPanel(panel, row, column, transposed);
  };
#pragma unroll
  for (int row = 0; row < kBlocks; ++row) {
#pragma unroll
    for (int column = row + 1; column < kBlocks; ++column) {
      StoreZerosToPanel(panel_memory, row, column);
    }
  }
  store_transpose(0, 0, t00);
  store(1, 1, x11);
  store(2, 2, x22);
  store(3, 3, x33);

  // Blocks of 16: X = T_low (-A) T_up.
  const auto multiply = [&](const Block& low, int row, const Block& up, Block& x) {
    Block lower, product = {};
    LoadLowerBlock(products, sums, beta, row, row - 1, lower);
    AddProduct(product, low, lower);
    RoundToTf32(product);
    AddProduct(x, product, up);
    RoundToTf32(x);
  };
  Block t10 = {}, x32 = {};
  multiply(t00, 1, x11, t10);
  store_transpose(1, 0, t10);
  multiply(x33, 3, t22, x32);
  store(3, 2, x32);
  // Of 32.
  Block product[2][2] = {};
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    Block lower;
    LoadLowerBlock(products, sums, beta, 2, column, lower);
    AddProduct(product[0][column], x22, lower);
    AddProduct(product[1][column], x32, lower);
    LoadLowerBlock(products, sums, beta, 3, column, lower);
    AddProduct(product[1][column], x33, lower);
    RoundToTf32(product[0][column]);
    RoundToTf32(product[1][column]);
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    Block left = {}, right = {};
    AddProduct(left, product[row][0], t00);
    AddProduct(left, product[row][1], t10);
    AddProduct(right, product[row][1], t11);
    store(2 + row, 0, left);
    store(2 + row, 1, right);
  }
}

}  // namespace

// Blocks an SM: bounds registers.
template <int kPanels>
__global__ void __launch_bounds__(kThreads, kPanels == 4 ? 3 : 4)
    WidePrepareKernel(const RecurrenceParams p, const RecurrenceProjections from,
                      const TokenWindow window, const ChunkWorkspace workspace,
                      const int group_size) {
  constexpr WideRecord kRecord = MakeWideRecord(kPanels, true, false);
  using Stage = WideStage<kPanels, true, false>;
  extern __shared__ __align__(1024) char shared[];
  if (blockIdx.x == gridDim.x - 1) return AwaitPreviousKernel();
  const int head_groups = p.heads / group_size;
  const ChunkWork work = FindWork<kWideChunk>(p, window, blockIdx.x, head_groups, group_size);
  if (work.num_tokens == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  const uint32_t q = SharedAddress(shared), k = q + kPanels * kPanelBytes;
  LoadPanels<kPanels>(q, p.q, p.q_stride,
                      work.first_token * p.q_stride + work.first_head / p.q_group * p.key_dim,
                      work.num_tokens, p.key_dim);
  LoadPanels<kPanels>(k, p.k, p.k_stride,
                      work.first_token * p.k_stride + work.first_head / p.k_group * p.key_dim,
                      work.num_tokens, p.key_dim);
  CommitCopies();

  auto& scalars = *reinterpret_cast<HeadScalars*>(shared + ScalarsOffset(kPanels));
  const auto record_of = [&](int head) {
    return workspace.records +
           (static_cast<int64_t>(work.slot) * p.heads + work.first_head + head) * kRecord.bytes;
  };
  // A warp makes the decays of one of the next heads.
  const auto load_scalars = [&](int first) {
    if (first + warp >= group_size) return;
    const int h = work.first_head + first + warp;
    float sum[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = lane + 32 * half, token = work.first_token + i;
      const bool is_there = i < work.num_tokens;
      sum[half] = is_there ? LoadLogDecay(p, from, token, h) : 0.0f;
      scalars.beta[warp][i] = is_there ? LoadBeta(p, from, token, h) : 0.0f;
    }
    SumLogDecay(sum);
    StoreDecays(sum, reinterpret_cast<float*>(record_of(first + warp) + kRecord.decay));
    scalars.sums[warp][lane] = sum[0];
    scalars.sums[warp][lane + 32] = sum[1];
  };
  load_scalars(0);
  WaitForCopies<0>();
  PublishToTensorCores();
  __syncthreads();

  {
    float qk[8][4] = {}, kk[8][4] = {};
    MultiplyKeys<kPanels, true>(q, k, qk, kk);
    __syncthreads();  // q and k make way
    StoreProducts(qk, kk, shared);
  }
  __syncthreads();

  const int panel_offset = 2 * kFragments + warp * kPanelBytes;
  const uint32_t panel = SharedAddress(shared) + panel_offset;
  for (int first = 0; first < group_size; first += kHeadsAtOnce) {
    if (first > 0) {
      __syncthreads();  // all are done with the heads before
      load_scalars(first);
      __syncthreads();
    }
    const int heads = min(kHeadsAtOnce, group_size - first);
    // The longer ones first.
    for (int item = warp; item < 2 * heads; item += kWarps) {
      const bool is_transform = item < heads;
      const int head = is_transform ? item : item - heads;
      if (lane == 0) WaitForReads();  // of this warp's panel, by the copy before
      __syncwarp();
      if (is_transform) {
        MakeTransform(shared + kFragments, scalars.sums[head], scalars.beta[head],
                      shared + panel_offset, panel);
      } else {
        MakeAttention(shared, scalars.sums[head], p.scale, shared + panel_offset, panel);
      }
      PublishToCopies();
      __syncwarp();
      if (lane == 0) {
        CopyToGlobal(
            record_of(first + head) + (is_transform ? Stage::kTransform : Stage::kAttention), panel,
            kPanelBytes);
      }
    }
  }
  if (lane == 0) WaitForReads();
}

namespace {

template <int kPanels>
void Launch(const RecurrenceParams& p, const RecurrenceProjections& from, TokenWindow window,
            const ChunkWorkspace& workspace, cudaStream_t stream) {
  const int group_size = p.q_group == p.k_group ? p.q_group : 1;
  const int64_t slots = (window.end - window.begin) / kWideChunk + p.num_sequences;
  const auto kernel = WidePrepareKernel<kPanels>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, SharedBytes(kPanels)),
        "cudaFuncSetAttribute");
  Check(LaunchChained(kernel, static_cast<unsigned>(slots * (p.heads / group_size) + 1), kThreads,
                      SharedBytes(kPanels), stream, workspace.beside_scan, p, from, window,
                      workspace, group_size),
        "WidePrepareKernel");
}

}  // namespace

void LaunchWidePrepare(const RecurrenceParams& p, const RecurrenceProjections& from,
                       TokenWindow window, const ChunkWorkspace& workspace, cudaStream_t stream) {
  if (p.key_dim <= 64) {
    Launch<1>(p, from, window, workspace, stream);
  } else if (p.key_dim <= 128) {
    Launch<2>(p, from, window, workspace, stream);
  } else {
    Launch<4>(p, from, window, workspace, stream);
  }
}

}  // namespace fla::cuda
