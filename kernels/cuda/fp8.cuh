// From eight-bit weights (kernels/fp8.h) to bf16.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace fla::cuda {

// With the exponent's bits in their place a number is 2^-120 times what it was, subnormals too.
// What to multiply by then, twice.
__device__ __forceinline__ __nv_bfloat162 WideningFactor(float scale) {
  return __float2bfloat162_rn(scale * 0x1p120f);
}

// Four neighbouring bytes to two pairs: of the bytes 1 and 3, and of 0 and 2.
__device__ __forceinline__ void Widen(uint32_t bytes, __nv_bfloat162 factor, uint32_t& odd,
                                      uint32_t& even) {
  constexpr uint32_t kSigns = 0x80008000, kMagnitudes = 0x07f007f0;
  const auto multiplied = [&](uint32_t pair) {
    const __nv_bfloat162 product = __hmul2(reinterpret_cast<__nv_bfloat162&>(pair), factor);
    return reinterpret_cast<const uint32_t&>(product);
  };
  odd = multiplied((bytes & kSigns) | (bytes >> 4 & kMagnitudes));
  even = multiplied((bytes << 8 & kSigns) | (bytes << 4 & kMagnitudes));
}

// Two numbers to e4m3, the first in the lower byte; beyond 448 the largest.
__device__ __forceinline__ uint32_t PackFp8(__half2 pair) {
  return __nv_cvt_halfraw2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
}
__device__ __forceinline__ __half2 UnpackFp8(uint32_t pair) {
  return __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair), __NV_E4M3);
}

// Tensor cores multiply e4m3 by e4m3. A bf16 number is two of them, high + low / kSplitLow, times a
// scale that it shares with others, a power of two that leaves the largest 128 or more. So it keeps
// all of its 8 bits if it is 2^-13 of the largest or more; of a smaller one an error of 2^-21 of
// the largest is left.
constexpr float kSplitLow = 16.0f;
struct SplitScale {
  float factor, scale;  // to multiply by before and after
};
// exponent: the largest magnitude's, biased, as f32 and bf16 have it.
__device__ __forceinline__ SplitScale SplitScaleOf(uint32_t exponent) {
  constexpr uint32_t kOne = 127, kWanted = 7, kLeast = 32;
  exponent = max(exponent, kLeast);
  return {__uint_as_float((2 * kOne + kWanted - exponent) << 23),
          __uint_as_float((exponent - kWanted) << 23)};
}
// Of two numbers, already multiplied, the pairs of bytes.
__device__ __forceinline__ void SplitFp8(float first, float second, uint32_t& high, uint32_t& low) {
  const __half2 pair = __floats2half2_rn(first, second);  // exact, or less than e4m3's least
  high = PackFp8(pair);
  low = PackFp8(__hmul2(__hsub2(pair, UnpackFp8(high)), __float2half2_rn(kSplitLow)));
}

}  // namespace fla::cuda
