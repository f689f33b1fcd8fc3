// Blocks of 16x16 of a wide chunk's triangles, each in a warp's registers or in the fragments that
// these are written to.
//
// A block M is held as mma.m16n8k16 leaves its sums: block[tile][e] is element (r + 8 (e / 2), 8
// tile + 2 t + e % 2). In m16n8k8's order of the contracted index, which may be any if both
// operands have the same, the same registers are operand A of M and operand B of its transpose. So
// a product A B takes A and the transpose of B, and chains of products need no exchange between
// lanes.
#pragma once

#include "kernels/cuda/warpgroup.cuh"

namespace fla::cuda {

struct Block {
  float tiles[2][4];

  __device__ __forceinline__ float (&operator[](int tile))[4] { return tiles[tile]; }
  __device__ __forceinline__ const float (&operator[](int tile) const)[4] { return tiles[tile]; }
};
inline constexpr int kBlocks = kWideChunk / 16;  // of a row of blocks
inline constexpr int kBlockBytes = 4 * 16 * 16;  // f32

// c += a b, given b's transpose; of numbers of tf32.
__device__ __forceinline__ void AddProduct(Block& c, const Block& a, const Block& b_transposed) {
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const float rows[4] = {a[k][0], a[k][2], a[k][1], a[k][3]};
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const float columns[2] = {b_transposed[k][2 * tile], b_transposed[k][2 * tile + 1]};
      MultiplyAddTf32(c[tile], rows, columns);
    }
  }
}

__device__ __forceinline__ void RoundToTf32(Block& block) {
#pragma unroll
  for (auto& tile : block.tiles) {
#pragma unroll
    for (float& x : tile) x = RoundToTf32(x);
  }
}

// Fragments in shared memory: a lane's numbers of a tile are 16 bytes, the lanes side by side.
__device__ __forceinline__ void StoreFragment(char* fragment, const Block& block) {
  auto* const target = reinterpret_cast<float4*>(fragment) + threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const float(&x)[4] = block[tile];
    target[32 * tile] = make_float4(x[0], x[1], x[2], x[3]);
  }
}
__device__ __forceinline__ void LoadFragment(const char* fragment, Block& block) {
  const auto* const source = reinterpret_cast<const float4*>(fragment) + threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const float4 x = source[32 * tile];
    block[tile][0] = x.x, block[tile][1] = x.y, block[tile][2] = x.z, block[tile][3] = x.w;
  }
}

// block[tile][e] *= of_rows[e / 2] * of_columns[tile][e % 2].
__device__ __forceinline__ void ScaleBlock(Block& block, const float (&of_rows)[2],
                                           const float (&of_columns)[2][2]) {
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) block[tile][e] *= of_rows[e / 2] * of_columns[tile][e % 2];
  }
}

// The numbers of f32 [16], in shared memory, that belong to this lane's rows and columns.
__device__ __forceinline__ void LoadOfRows(const float* x, float (&of_rows)[2]) {
  const int r = threadIdx.x % 32 / 4;
  of_rows[0] = x[r], of_rows[1] = x[r + 8];
}
__device__ __forceinline__ void LoadOfColumns(const float* x, float (&of_columns)[2][2]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
    const float2 pair = *reinterpret_cast<const float2*>(x + 8 * tile + 2 * t);
    of_columns[tile][0] = pair.x, of_columns[tile][1] = pair.y;
  }
}

// Block (row, column) of a triangle, bf16, from a block or from its transpose.
__device__ __forceinline__ void StoreToTriangle(uint32_t triangle, int row, int column,
                                                const Block& block) {
  const int lane = threadIdx.x % 32;
  const uint32_t matrices[4] = {Pack(block[0][0], block[0][1]), Pack(block[0][2], block[0][3]),
                                Pack(block[1][0], block[1][1]), Pack(block[1][2], block[1][3])};
  StoreMatrices(triangle + TriangleOffset(16 * row + lane % 16, 2 * column + lane / 16), matrices);
}
// Zeros where a triangle has room above its diagonal: behind the diagonal block of an even row.
__device__ __forceinline__ void StoreZerosToTriangle(char* triangle, int row) {
  const int lane = threadIdx.x % 32;
  if (row % 2 != 0) return;
  *reinterpret_cast<uint4*>(triangle +
                            TriangleOffset(16 * row + lane % 16, 2 * (row + 1) + lane / 16)) =
      make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ void StoreTransposeToTriangle(uint32_t triangle, int row, int column,
                                                         const Block& transposed) {
  const int lane = threadIdx.x % 32;
  const uint32_t matrices[4] = {
      Pack(transposed[0][0], transposed[0][1]), Pack(transposed[0][2], transposed[0][3]),
      Pack(transposed[1][0], transposed[1][1]), Pack(transposed[1][2], transposed[1][3])};
  StoreMatricesTransposed(
      triangle + TriangleOffset(16 * row + lane / 16 * 8 + lane % 8, 2 * column + lane / 8 % 2),
      matrices);
}

}  // namespace fla::cuda
