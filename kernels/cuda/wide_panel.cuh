// How the wide kernels lay a matrix out in shared memory: see warpgroup.cuh.
//
// A lower triangle [64, 64], whose quadrant of rows below 32 and columns from 32 on is 0 and takes
// no room: the last quadrant, of rows and columns from 32 on, then columns 0 to 31. Both are in
// 64-byte rows, the pieces of row i at place (piece ^ i / 2 % 4): wgmma's 64-byte swizzle. With
// kQuadrantBytes of zeros in front, the first part is columns 32 to 63 of all rows.
#pragma once

#include <cstdint>

namespace fla::cuda {

inline constexpr int kPanelBytes = 64 * 128;

// Byte offset in a panel of 16-byte piece `piece` of row `row`.
__device__ __forceinline__ uint32_t PanelOffset(int row, int piece) {
  return row * 128 + ((piece ^ (row & 7)) << 4);
}

inline constexpr int kTriangleRowBytes = 64, kQuadrantBytes = 32 * kTriangleRowBytes,
                     kTriangleBytes = 3 * kQuadrantBytes;

// The same in a triangle: pieces 0 to 3 of rows below 32, 0 to 7 of the others.
__device__ __forceinline__ uint32_t TriangleOffset(int row, int piece) {
  const int part = piece < 4 ? kQuadrantBytes : -32 * kTriangleRowBytes;
  return part + row * kTriangleRowBytes + (((piece % 4) ^ (row / 2 & 3)) << 4);
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
// (the same of columns 16 step to 16 step + 15 of a triangle, rows from `row` on; rows below 32 of
// columns from 32 on are the zeros in front)
__device__ __forceinline__ uint64_t TriangleRowsDescriptor(uint32_t address, uint32_t triangle,
                                                           int row, int step) {
  const int part = step < 2 ? kQuadrantBytes : -kQuadrantBytes;
  return MatrixDescriptor<kTriangleRowBytes>(
      address, triangle + part + row * kTriangleRowBytes + step % 2 * 32, 1);
}
// or rows are contracted, and panels follow each other along B's columns:
__device__ __forceinline__ uint64_t ContractedRowsDescriptor(uint32_t address,
                                                             uint32_t offset = 0) {
  return MatrixDescriptor(address, offset, kPanelBytes / 16);
}

}  // namespace fla::cuda
