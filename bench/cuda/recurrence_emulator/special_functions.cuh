// Stands in for kernels/cuda/special_functions.cuh.
#pragma once

#include <cmath>
#include <cstdint>

namespace fla::cuda {

inline constexpr float kLog2E = 1.44269504f;

inline float Exp2(float x) { return std::exp2(x); }
inline float Reciprocal(float x) { return 1.0f / x; }

template <int kByte>
uint32_t SignedByteTimes256(uint32_t word) {
  return static_cast<uint32_t>(static_cast<int8_t>(word >> 8 * kByte)) * 256;
}

}  // namespace fla::cuda
