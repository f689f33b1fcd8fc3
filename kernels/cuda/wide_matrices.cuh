// P and T of a wide chunk and head, made by the four warps of a warpgroup together:
//
//   P = scale Q K^T decay, lower triangle with the diagonal
//   T = (I + A)^-1 diag(beta), A = beta K K^T decay, strictly lower
//
// Both start from products as wgmma leaves them, warp w with row w of blocks of 16 x 16
// (wide_block.cuh). A warp makes that row of P, and of T *column* w of blocks: as K K^T is
// symmetric, its row w has, transposed, the blocks of A's column w. With -A for A and D_j for the
// inverse of the diagonal block of I + A, column w of the inverse X is
//
//   X_ww = D_w        X_jw = sum over m = w ... j - 1 of W_jm X_mw,  W_jm = D_j A_jm
//
// and W_jm is warp m's to make. Of the D, a warp each, the diagonal quarters are substituted
// forward in f32 (InvertDiagonalBlock); everything else are products of tf32, of which X comes out
// transposed, and thus as the operand of the next one. Two barriers: for the D, and for the W of
// other columns.
#pragma once

#include "kernels/cuda/wide_block.cuh"

namespace fla::cuda {

// How a decay from j to i is split where i's block is behind j's: at the token before i's block, so
// that both factors are products of numbers <= 1. `sums`: SumLogDecay's of all tokens, in shared
// memory.
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

// block[i][j] *= of_rows[i] decay(j -> i) where j < i or, kDiagonal, j <= i, else 0. `sums`: of the
// block's tokens.
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

// Block `column` of a warp's row of a product.
__device__ __forceinline__ Block BlockOf(const float (&product)[8][4], int column) {
  Block block;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) block[tile][e] = product[2 * column + tile][e];
  }
  return block;
}

// A warp's rows of P to a triangle: in one place, those of warps 2 and 3 in two.
__device__ __forceinline__ void MakeAttention(const float (&qk)[8][4], const float* sums,
                                              float scale, char* triangle) {
  const int row = threadIdx.x / 32 % 4;
  const float boundary = row > 0 ? Boundary(sums, row) : 0.0f;
  float of_rows[2];
  LoadOfRows(sums + 16 * row, of_rows);
  DecaysFrom(boundary, of_rows);
  of_rows[0] *= scale, of_rows[1] *= scale;
  StoreZerosToTriangle(triangle, row);
#pragma unroll
  for (int column = 0; column < kBlocks; ++column) {
    if (column > row) break;
    Block block = BlockOf(qk, column);
    if (column < row) {
      float of_columns[2][2];
      LoadOfColumns(sums + 16 * column, of_columns);
      for (auto& pair : of_columns) DecaysTo(boundary, pair);
      ScaleBlock(block, of_rows, of_columns);
    } else {
      const float scales[2] = {scale, scale};
      DecayDiagonalBlock<true>(block, sums + 16 * row, scales);
    }
    StoreToTriangle(SharedAddress(triangle), row, column, block);
  }
}

// What the warps tell each other of T.
struct TransformScratch {
  // Rows that begin in different banks.
  static constexpr int kRowStride = 20, kStride = 16 * kRowStride;

  float diagonal[kBlocks][kStride];  // the D, transposed, of numbers of tf32
  char further[3][kBlockBytes];      // W_21, W_31, W_32, as fragments

  static constexpr int Further(int row, int column) { return row + column - 3; }
};
static_assert(sizeof(TransformScratch) == kPanelBytes);

// A block that is there as rows, and its transpose.
__device__ __forceinline__ void LoadRows(const float* rows, Block& block) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float2 pair = *reinterpret_cast<const float2*>(
        rows + (r + e / 2 * 8) * TransformScratch::kRowStride + e % 2 * 8 + 2 * t);
    block[e % 2][e / 2 * 2] = pair.x, block[e % 2][e / 2 * 2 + 1] = pair.y;
  }
}
__device__ __forceinline__ void LoadColumns(const float* rows, Block& transposed) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      transposed[tile][e] =
          rows[(8 * tile + 2 * t + e % 2) * TransformScratch::kRowStride + r + e / 2 * 8];
    }
  }
}
__device__ __forceinline__ void StoreRows(const Block& block, float* rows) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    *reinterpret_cast<float2*>(rows + (r + e / 2 * 8) * TransformScratch::kRowStride + e % 2 * 8 +
                               2 * t) =
        make_float2(block[e % 2][e / 2 * 2], block[e % 2][e / 2 * 2 + 1]);
  }
}

// From -A's rows to the transpose of (I + A)^-1, of numbers of tf32. The inverses E and G of I +
// A's diagonal quarters [8, 8] are substituted forward in f32, a lane a column of one of them,
// which the half of the warp behind it makes again; with F for -A's quarter below E, the inverse
// has G F E there, of products of tf32.
__device__ __forceinline__ void InvertDiagonalBlock(float* rows) {
  constexpr int kStride = TransformScratch::kRowStride, kHalf = 8;
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int quarter = lane / kHalf % 2 * kHalf, j = lane % kHalf;
  // The transpose of F, the second operand of a product.
  const float further[2] = {RoundToTf32(rows[(kHalf + r) * kStride + t]),
                            RoundToTf32(rows[(kHalf + r) * kStride + t + 4])};
  const float* const own = rows + quarter * kStride + quarter;
  float x[kHalf];
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    float even = i == j ? 1.0f : 0.0f, odd = 0.0f;
#pragma unroll
    for (int m = 0; m < i; m += 4) {
      const float4 a = *reinterpret_cast<const float4*>(own + i * kStride + m);
      even += a.x * x[m];
      if (m + 1 < i) odd += a.y * x[m + 1];
      if (m + 2 < i) even += a.z * x[m + 2];
      if (m + 3 < i) odd += a.w * x[m + 3];
    }
    x[i] = even + odd;
  }
  __syncwarp();
  if (lane < 2 * kHalf) {
    float* const row = rows + (quarter + j) * kStride;  // of the transpose
#pragma unroll
    for (int i = 0; i < kHalf; i += 4) {
      *reinterpret_cast<float4*>(row + quarter + i) = make_float4(
          RoundToTf32(x[i]), RoundToTf32(x[i + 1]), RoundToTf32(x[i + 2]), RoundToTf32(x[i + 3]));
      if (quarter > 0) *reinterpret_cast<float4*>(row + i) = make_float4(0, 0, 0, 0);
    }
  }
  __syncwarp();
  // (G F E)^T = (E^T F^T) G^T: the first product's sums are the second one's operand, if channels 2
  // t and 2 t + 1 stand for t and t + 4. Rows 8 to 15 of both are 0.
  const float first[4] = {rows[r * kStride + t], 0.0f, rows[r * kStride + t + 4], 0.0f};
  float half[4] = {}, whole[4] = {};
  MultiplyAddTf32(half, first, further);
  const float second[4] = {RoundToTf32(half[0]), 0.0f, RoundToTf32(half[1]), 0.0f};
  const float* const columns = rows + (kHalf + 2 * t) * kStride + kHalf + r;
  const float last[2] = {columns[0], columns[kStride]};
  MultiplyAddTf32(whole, second, last);
  *reinterpret_cast<float2*>(rows + r * kStride + kHalf + 2 * t) =
      make_float2(RoundToTf32(whole[0]), RoundToTf32(whole[1]));
  __syncwarp();
}

// Block (row, column) of -A, of numbers of tf32, transposed, from block (column, row) of K K^T.
__device__ __forceinline__ void MakeLowerBlock(const float* sums, const float* beta, int row,
                                               int column, Block& block) {
  const float boundary = Boundary(sums, row);
  float of_rows[2], of_columns[2][2], betas[2][2];
  LoadOfRows(sums + 16 * column, of_rows);
  LoadOfColumns(sums + 16 * row, of_columns);
  LoadOfColumns(beta + 16 * row, betas);
  DecaysTo(boundary, of_rows);
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    DecaysFrom(boundary, of_columns[tile]);
    of_columns[tile][0] *= -betas[tile][0];
    of_columns[tile][1] *= -betas[tile][1];
  }
  ScaleBlock(block, of_rows, of_columns);
  RoundToTf32(block);
}

// Column `kColumn` of blocks of T, by the warp of that number; the two parts that others wait for.
template <int kColumn>
class TransformColumn {
 public:
  // Once all D are there: W of this column and X's shares of D.
  __device__ __forceinline__ void Begin(const float (&kk)[8][4], const float* sums,
                                        const float* beta, TransformScratch& scratch) {
    LoadRows(scratch.diagonal[kColumn], x_[0]);
#pragma unroll
    for (int row = kColumn + 1; row < kBlocks; ++row) {
      Block lower = BlockOf(kk, row), inverse, w = {};
      MakeLowerBlock(sums, beta, row, kColumn, lower);
      LoadColumns(scratch.diagonal[row], inverse);
      AddProduct(w, inverse, lower);
      RoundToTf32(w);
      if constexpr (kColumn > 0) {
        StoreFragment(scratch.further[TransformScratch::Further(row, kColumn)], w);
      }
      Block& x = x_[row - kColumn];
      x = {};
      AddProduct(x, x_[0], w);
    }
  }
  // Once all W are: the rest, and T to a triangle.
  __device__ __forceinline__ void End(const float* beta, const TransformScratch& scratch,
                                      uint32_t triangle) {
#pragma unroll
    for (int row = kColumn + 1; row < kBlocks; ++row) {
      Block& x = x_[row - kColumn];
#pragma unroll
      for (int m = kColumn + 1; m < row; ++m) {
        Block w;
        LoadFragment(scratch.further[TransformScratch::Further(row, m)], w);
        AddProduct(x, x_[m - kColumn], w);
      }
      RoundToTf32(x);
    }
    const float ones[2][2] = {{1.0f, 1.0f}, {1.0f, 1.0f}};
    float of_rows[2];
    LoadOfRows(beta + 16 * kColumn, of_rows);
#pragma unroll
    for (int row = kColumn; row < kBlocks; ++row) {
      ScaleBlock(x_[row - kColumn], of_rows, ones);
      StoreTransposeToTriangle(triangle, row, kColumn, x_[row - kColumn]);
    }
  }

 private:
  Block x_[kBlocks - kColumn];  // X_jw, transposed
};

// T to a triangle, whose blocks above the diagonal stay as they are. `barrier` is one of the
// warpgroup's own. The scratch is in use until all warps have come back.
__device__ __forceinline__ void MakeTransform(const float (&kk)[8][4], const float* sums,
                                              const float* beta, TransformScratch& scratch,
                                              uint32_t triangle, int barrier) {
  constexpr int kThreads = 128;
  const int warp = threadIdx.x / 32 % 4;
  {
    Block block = BlockOf(kk, 0);
#pragma unroll
    for (int i = 1; i < kBlocks; ++i) {
      if (i == warp) block = BlockOf(kk, i);
    }
    float of_rows[2];
    LoadOfRows(beta + 16 * warp, of_rows);
    of_rows[0] = -of_rows[0], of_rows[1] = -of_rows[1];
    DecayDiagonalBlock<false>(block, sums + 16 * warp, of_rows);
    StoreRows(block, scratch.diagonal[warp]);
    __syncwarp();
    InvertDiagonalBlock(scratch.diagonal[warp]);
  }
  SyncThreads<kThreads>(barrier);
  const auto make_column = [&](auto column) {
    column.Begin(kk, sums, beta, scratch);
    SyncThreads<kThreads>(barrier);
    column.End(beta, scratch, triangle);
  };
  switch (warp) {
    case 0:
      return make_column(TransformColumn<0>());
    case 1:
      return make_column(TransformColumn<1>());
    case 2:
      return make_column(TransformColumn<2>());
    default:
      return make_column(TransformColumn<3>());
  }
}

}  // namespace fla::cuda
