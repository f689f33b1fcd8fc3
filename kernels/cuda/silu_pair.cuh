// SwiGlu's gates in the epilogues of products.
#pragma once

#include "kernels/cuda/elements.cuh"

namespace fla::cuda {

// silu(a) and silu(b) with one reciprocal: these are what an epilogue waits for. From -43 on, where
// silu is 0 to any reader, 1 + e^-x stays what it is there, so that the product is finite.
__device__ __forceinline__ void Silu(float& a, float& b) {
  constexpr float kMost = 62.0f;
  const float of_a = 1.0f + Exp2(fminf(a * -kLog2E, kMost));
  const float of_b = 1.0f + Exp2(fminf(b * -kLog2E, kMost));
  const float both = Reciprocal(of_a * of_b);
  a *= of_b * both;
  b *= of_a * both;
}

}  // namespace fla::cuda
