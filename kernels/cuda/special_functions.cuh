// What is one instruction, for which C++ has no word or several: first what the special function
// units compute.
//
// The emulator of bench/cuda replaces this file.
#pragma once

#include <cstdint>

namespace fla::cuda {

inline constexpr float kLog2E = 1.44269504f;

// 2^x and 1 / x by the special function units alone: subnormal results are 0.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float Reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Byte `kByte` of `word`, a signed number, times 256.
template <int kByte>
__device__ __forceinline__ uint32_t SignedByteTimes256(uint32_t word) {
  constexpr uint32_t kSign = 8 | kByte;
  uint32_t result;
  asm("prmt.b32 %0, %1, 0, %2;"
      : "=r"(result)
      : "r"(word), "n"(kSign << 12 | kSign << 8 | kByte << 4 | 4));
  return result;
}

}  // namespace fla::cuda
