// What the special function units compute in one instruction each.
//
// The emulator of bench/cuda replaces this file.
#pragma once

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

}  // namespace fla::cuda
