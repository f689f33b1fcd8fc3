// What normalising a head of q or k by HeadNorm adds up, and what it multiplies by then.
#pragma once

#include "kernels/ops.h"

namespace fla::cuda {

__device__ __forceinline__ float HeadNormTerm(HeadNorm norm, float x) {
  return norm == HeadNorm::kL2 ? x * x : norm == HeadNorm::kL1 ? fabsf(x) : x;
}

// sum: of all channels' terms. NaN stays NaN.
__device__ __forceinline__ float HeadNormFactor(HeadNorm norm, float sum, float eps) {
  float factor = 1.0f;
  if (norm == HeadNorm::kL2) factor = rsqrtf(sum + eps);
  if (norm == HeadNorm::kSum) factor = 1.0f / (sum + eps);
  if (norm == HeadNorm::kL1) factor = 1.0f / (sum < eps ? eps : sum);
  return factor;
}

}  // namespace fla::cuda
