// Sums over lanes, a warp and a block, and a warp's largest number.
#pragma once

namespace fla::cuda {

// Of every kLanes neighbouring lanes, a power of two; the same bits in each of them.
template <int kLanes = 32>
__device__ __forceinline__ float WarpSum(float x) {
  static_assert(kLanes <= 32 && (kLanes & (kLanes - 1)) == 0);
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(~0u, x, distance);
  }
  return x;
}

__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
  }
  return x;
}

// Of a block of `warps` warps, at most kMaxWarps; the same bits in every thread. Between two calls
// the block synchronises.
template <int kMaxWarps>
__device__ __forceinline__ float BlockSum(float x, int warps = kMaxWarps) {
  __shared__ float warp_sums[kMaxWarps];
  x = WarpSum(x);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < warps; ++warp) sum += warp_sums[warp];
  return sum;
}

}  // namespace fla::cuda
