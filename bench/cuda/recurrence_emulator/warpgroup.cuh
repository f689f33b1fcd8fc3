// Stands in for kernels/cuda/warpgroup.cuh under the emulator. Products are made at once, from what
// shared memory then holds, decoded from their descriptors.
#pragma once

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/wide_panel.cuh"

namespace fla::cuda {

inline float RoundToTf32(float x) { return __uint_as_float(__float_as_uint(x) + 0x1000u); }

inline void MultiplyAddTf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  float x[6];
  for (int i = 0; i < 6; ++i) {
    x[i] = __uint_as_float(__float_as_uint(i < 4 ? a[i] : b[i - 4]) & ~0x1fffu);
  }
  const int lane = emulator::Lane(), r = lane / 4, t = lane % 4;
  float all[6][32];
  for (int i = 0; i < 6; ++i) {
    for (int l = 0; l < 32; ++l) all[i][l] = emulator::Shuffle(x[i], l);
  }
  for (int e = 0; e < 4; ++e) {
    const int column = 2 * t + e % 2;
    for (int k = 0; k < 8; ++k) {
      c[e] += all[e / 2 + k / 4 * 2][4 * r + k % 4] * all[4 + k / 4][4 * column + k % 4];
    }
  }
}

inline void StoreMatricesAs(uint32_t address, const uint32_t (&m)[4], bool transposed) {
  if (address % 16 != 0) std::abort();
  const int lane = emulator::Lane(), r = lane / 4, c = lane % 4 * 2;
  uint64_t* const rows = emulator::WarpWords();
  rows[lane] = address;
  emulator::SyncWarp();
  for (int i = 0; i < 4; ++i) {
    for (int e = 0; e < 2; ++e) {
      const auto bits = static_cast<uint16_t>(m[i] >> 16 * e);
      const int row = transposed ? c + e : r, column = transposed ? r : c + e;
      std::memcpy(shared + rows[8 * i + row] + 2 * column, &bits, sizeof bits);
    }
  }
  emulator::SyncWarp();
}
inline void StoreMatrices(uint32_t address, const uint32_t (&m)[4]) {
  StoreMatricesAs(address, m, false);
}
inline void StoreMatricesTransposed(uint32_t address, const uint32_t (&m)[4]) {
  StoreMatricesAs(address, m, true);
}

inline void StoreIf(bool condition, void* target, const uint4& x) {
  if (condition) std::memcpy(target, &x, sizeof x);
}

inline void CommitCopies() {}
template <int kPending>
inline void WaitForCopies() {}
inline void PublishToTensorCores() {}
template <int kRegisters>
inline void GrowRegisters() {}
template <int kRegisters>
inline void ShrinkRegisters() {}
inline void BeginProducts() {}
inline void CommitProducts() {}
template <int kPending>
inline void WaitForProducts() {}
template <int kTiles>
inline void Settle(float (&)[kTiles][4]) {}
template <int kParts, int kTiles>
inline void Settle(float (&)[kParts][kTiles][4]) {}

// Element (row, k) of an operand: with rows as the panel's rows, or contracted rows.
inline float DescribedElement(uint64_t descriptor, bool contracted_rows, int row, int k) {
  const auto field = [&](int bit) {
    return static_cast<uint32_t>(descriptor >> bit & 0x3fff) << 4;
  };
  const int swizzle = descriptor >> 62, row_bytes = 256 >> swizzle;  // 1: of 128 bytes, 2: of 64
  if (swizzle != 1 && (swizzle != 2 || contracted_rows)) std::abort();
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  uint32_t address = start;
  if (contracted_rows) {
    address += row / 64 * leading + row % 64 * 2 + k % 8 * 128 + k / 8 * stride;
  } else {
    address += row / 8 * stride + row % 8 * row_bytes + k * 2;
  }
  address ^= (address >> 7 & (row_bytes / 16 - 1)) << 4;
  uint16_t bits;
  std::memcpy(&bits, shared + address, sizeof bits);
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// rows[half][k]: this thread's rows r and r + 8 of A.
template <int kTiles>
inline void MultiplyRows(float (&d)[kTiles][4], const float (&rows)[2][16], uint64_t b,
                         bool contracted_rows, bool add) {
  const int t = emulator::Lane() % 4;
  for (int tile = 0; tile < kTiles; ++tile) {
    for (int e = 0; e < 4; ++e) {
      float sum = add ? d[tile][e] : 0.0f;
      for (int k = 0; k < 16; ++k) {
        sum += rows[e / 2][k] * DescribedElement(b, contracted_rows, 8 * tile + 2 * t + e % 2, k);
      }
      d[tile][e] = sum;
    }
  }
}

// From A in registers.
inline void GatherRows(const uint32_t (&a)[4], float (&rows)[2][16]) {
  const int lane = emulator::Lane();
  for (int i = 0; i < 4; ++i) {
    for (int t = 0; t < 4; ++t) {
      const uint32_t pair = emulator::Shuffle(a[i], lane / 4 * 4 + t);
      rows[i % 2][i / 2 * 8 + 2 * t] = Low(pair);
      rows[i % 2][i / 2 * 8 + 2 * t + 1] = High(pair);
    }
  }
}

template <bool kTransposed>
inline void WarpgroupMultiplyAdd(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  float rows[2][16];
  GatherRows(a, rows);
  MultiplyRows(d, rows, b, kTransposed, add);
}
inline void WarpgroupMultiplyAdd(float (&d)[4][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  float rows[2][16];
  GatherRows(a, rows);
  MultiplyRows(d, rows, b, false, add);
}

inline void WarpgroupMultiplyAdd(float (&d)[8][4], uint64_t a, uint64_t b, bool add) {
  const int row = threadIdx.x / 32 % 4 * 16 + emulator::Lane() / 4;
  float rows[2][16];
  for (int half = 0; half < 2; ++half) {
    for (int k = 0; k < 16; ++k) rows[half][k] = DescribedElement(a, false, row + 8 * half, k);
  }
  MultiplyRows(d, rows, b, false, add);
}

}  // namespace fla::cuda
