// The sum of a warp's numbers.
#pragma once

namespace fla::cuda {

// In every lane the same bits.
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
  return x;
}

}  // namespace fla::cuda
