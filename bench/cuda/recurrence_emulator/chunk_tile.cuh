// Stands in for kernels/cuda/chunk_tile.cuh under the emulator: the same operations, by what PTX's
// documentation says of them. Copies to shared memory happen at once. Shared addresses are offsets.
#pragma once

#include <cmath>
#include <cstdlib>

#include "bench/cuda/recurrence_emulator/emulator.h"
#include "kernels/cuda/chunk_window.cuh"
#include "kernels/cuda/special_functions.cuh"

namespace fla::cuda {

extern char shared[];

inline float Low(uint32_t pair) { return __uint_as_float(pair << 16); }
inline float High(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
inline uint32_t Pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  std::memcpy(&bits, &pair, sizeof bits);
  return bits;
}

inline void MultiplyAdd(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                        uint32_t b0, uint32_t b1) {
  uint64_t* const words = emulator::WarpWords();
  const int lane = emulator::Lane();
  words[lane] = a0 | static_cast<uint64_t>(a1) << 32;       // rows r and r + 8, columns 0-7
  words[32 + lane] = a2 | static_cast<uint64_t>(a3) << 32;  // columns 8-15
  words[64 + lane] = b0 | static_cast<uint64_t>(b1) << 32;  // contracted index 0-7 and 8-15
  emulator::SyncWarp();
  const auto element = [](uint64_t word, bool upper, int k) {
    const uint32_t pair = static_cast<uint32_t>(upper ? word >> 32 : word);
    return k % 2 ? High(pair) : Low(pair);
  };
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      const float a = element(words[k / 8 * 32 + row % 8 * 4 + k % 8 / 2], row >= 8, k);
      sum += a * element(words[64 + column * 4 + k % 8 / 2], k >= 8, k);
    }
    c[e] += sum;
  }
  emulator::SyncWarp();
}

inline uint32_t Kept(uint32_t x) { return x; }

inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(static_cast<const char*>(pointer) - shared);
}

inline void LoadMatricesAs(uint32_t (&m)[4], uint32_t address, bool transposed) {
  if (address % 16 != 0) std::abort();
  const int lane = emulator::Lane(), r = lane / 4, c = lane % 4 * 2;
  uint64_t* const rows = emulator::WarpWords();
  rows[lane] = address;
  emulator::SyncWarp();
  for (int i = 0; i < 4; ++i) {
    const auto element = [&](int row, int column) {
      uint16_t bits;
      std::memcpy(&bits, shared + rows[8 * i + row] + 2 * column, sizeof bits);
      return static_cast<uint32_t>(bits);
    };
    m[i] = transposed ? element(c, r) | element(c + 1, r) << 16
                      : element(r, c) | element(r, c + 1) << 16;
  }
  emulator::SyncWarp();
}
inline void LoadMatrices(uint32_t (&m)[4], uint32_t address) { LoadMatricesAs(m, address, false); }
inline void LoadMatricesTransposed(uint32_t (&m)[4], uint32_t address) {
  LoadMatricesAs(m, address, true);
}

inline uint32_t Transposed(uint32_t m) {
  const int lane = emulator::Lane(), r = lane / 4, c = lane % 4 * 2;
  const uint32_t low = emulator::Shuffle(m, c * 4 + r / 2);
  const uint32_t high = emulator::Shuffle(m, (c + 1) * 4 + r / 2);
  const int shift = r % 2 * 16;
  return (low >> shift & 0xffff) | (high >> shift) << 16;
}

inline void CopyAsync(uint32_t target, const void* source, bool valid) {
  if (target % 16 != 0) std::abort();
  if (!valid) {
    std::memset(shared + target, 0, 16);
    return;
  }
  if (reinterpret_cast<uintptr_t>(source) % 16 != 0) std::abort();
  std::memcpy(shared + target, source, 16);
}

struct EmulatedBarrier {
  uint16_t count, pending, phase, unused;
};
inline EmulatedBarrier& BarrierAt(uint32_t address) {
  return *reinterpret_cast<EmulatedBarrier*>(shared + address);
}
inline void InitBarrier(uint32_t barrier, int count) {
  const auto arrivals = static_cast<uint16_t>(count);
  BarrierAt(barrier) = {arrivals, arrivals, 0, 0};
}
inline void Arrive(uint32_t barrier) {
  EmulatedBarrier& b = BarrierAt(barrier);
  if (--b.pending > 0) return;
  b.pending = b.count;
  b.phase ^= 1;
}
inline void ArriveAfterCopies(uint32_t barrier) { Arrive(barrier); }
inline void Wait(uint32_t barrier, int parity) {
  while (BarrierAt(barrier).phase == parity) emulator::Yield();
}
template <int kThreads>
inline void SyncThreads(int id) {
  emulator::SyncNamed(id, kThreads);
}

}  // namespace fla::cuda
