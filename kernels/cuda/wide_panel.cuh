// How the wide kernels lay a matrix out in shared memory: see warpgroup.cuh.
#pragma once

#include <cstdint>

namespace fla::cuda {

inline constexpr int kPanelBytes = 64 * 128;

// Byte offset in a panel of 16-byte piece `piece` of row `row`.
__device__ __forceinline__ uint32_t PanelOffset(int row, int piece) {
  return row * 128 + ((piece ^ (row & 7)) << 4);
}

// wgmma's matrix descriptors, of what lies `offset` bytes behind `address`: 128-byte swizzle, 1024
// bytes between groups of 8 rows, `leading` / 16 in the low word's upper half. Where the compiler
// knows `offset` and many descriptors share `address`, each is an addition away from the first.
__device__ __forceinline__ uint64_t MatrixDescriptor(uint32_t address, uint32_t offset,
                                                     uint32_t leading) {
  constexpr uint32_t kSwizzle128 = 1u << 30, kRowsStride = 1024 / 16;
  const uint32_t low = ((address & 0x3ffff) >> 4) + (offset / 16 + (leading << 16));
  return uint64_t{kSwizzle128 | kRowsStride} << 32 | low;
}
// Rows are the operand's rows (A) or columns (B), contracted along the 128 bytes:
__device__ __forceinline__ uint64_t RowsDescriptor(uint32_t address, uint32_t offset = 0) {
  return MatrixDescriptor(address, offset, 1);
}
// or rows are contracted, and panels follow each other along B's columns:
__device__ __forceinline__ uint64_t ContractedRowsDescriptor(uint32_t address,
                                                             uint32_t offset = 0) {
  return MatrixDescriptor(address, offset, kPanelBytes / 16);
}

}  // namespace fla::cuda
