// How the wide kernels lay a matrix out in shared memory: see warpgroup.cuh.
#pragma once

#include <cstdint>

namespace fla::cuda {

inline constexpr int kPanelBytes = 64 * 128;

// Byte offset in a panel of 16-byte piece `piece` of row `row`.
__device__ __forceinline__ uint32_t PanelOffset(int row, int piece) {
  return row * 128 + ((piece ^ (row & 7)) << 4);
}

// wgmma's matrix descriptors, start address in bytes: 128-byte swizzle, 1024 bytes between groups
// of 8 rows. Rows are the operand's rows (A) or columns (B), contracted along the 128 bytes:
__device__ __forceinline__ uint64_t RowsDescriptor(uint32_t address) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{64} << 32 |
         uint64_t{1} << 62;
}
// or rows are contracted, and panels follow each other along B's columns:
__device__ __forceinline__ uint64_t ContractedRowsDescriptor(uint32_t address) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{kPanelBytes / 16} << 16 |
         uint64_t{64} << 32 | uint64_t{1} << 62;
}

}  // namespace fla::cuda
