// How the wide kernels lay a matrix out in shared memory: see warpgroup.cuh.
//
// A lower triangle [64, 64], whose quadrant of rows below 32 and columns from 32 on is 0 and takes
// no room: the first quadrant [32, 32] in 64-byte rows, the pieces of row i at place (piece ^ i / 2
// % 4), wgmma's 64-byte swizzle; then rows 32 to 63 as a panel has them.
#pragma once

#include <cstdint>

namespace fla::cuda {

inline constexpr int kPanelBytes = 64 * 128;

// Byte offset in a panel of 16-byte piece `piece` of row `row`.
__device__ __forceinline__ uint32_t PanelOffset(int row, int piece) {
  return row * 128 + ((piece ^ (row & 7)) << 4);
}

inline constexpr int kQuadrantBytes = 32 * 64, kTriangleBytes = kQuadrantBytes + kPanelBytes / 2;

// The same in a triangle: pieces 0 to 3 of rows below 32, 0 to 7 of the others.
__device__ __forceinline__ uint32_t TriangleOffset(int row, int piece) {
  return row < 32 ? row * 64 + ((piece ^ (row / 2 & 3)) << 4)
                  : kQuadrantBytes - kPanelBytes / 2 + PanelOffset(row, piece);
}

// wgmma's matrix descriptors, of what lies `offset` bytes behind `address`: rows of 128 or 64 bytes
// in groups of 8, swizzled, `leading` / 16 in the low word's upper half. Where the compiler knows
// `offset` and many descriptors share `address`, each is an addition away from the first.
template <int kRowBytes = 128>
__device__ __forceinline__ uint64_t MatrixDescriptor(uint32_t address, uint32_t offset,
                                                     uint32_t leading) {
  static_assert(kRowBytes == 128 || kRowBytes == 64);
  constexpr uint32_t kSwizzle = (kRowBytes == 128 ? 1u : 2u) << 30, kStride = 8 * kRowBytes / 16;
  const uint32_t low = ((address & 0x3ffff) >> 4) + (offset / 16 + (leading << 16));
  return uint64_t{kSwizzle | kStride} << 32 | low;
}
// Rows are the operand's rows (A) or columns (B), contracted along the 128 bytes:
__device__ __forceinline__ uint64_t RowsDescriptor(uint32_t address, uint32_t offset = 0) {
  return MatrixDescriptor(address, offset, 1);
}
// (the same in the first quadrant of a triangle)
__device__ __forceinline__ uint64_t QuadrantRowsDescriptor(uint32_t address, uint32_t offset) {
  return MatrixDescriptor<64>(address, offset, 1);
}
// or rows are contracted, and panels follow each other along B's columns:
__device__ __forceinline__ uint64_t ContractedRowsDescriptor(uint32_t address,
                                                             uint32_t offset = 0) {
  return MatrixDescriptor(address, offset, kPanelBytes / 16);
}

}  // namespace fla::cuda
