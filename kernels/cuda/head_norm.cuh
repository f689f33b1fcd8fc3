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

// As HeadNormFactor where a norm can only be kL2, `sum` of squares, or none.
__device__ __forceinline__ float L2NormFactor(HeadNorm norm, float sum, float eps) {
  return norm == HeadNorm::kL2 ? rsqrtf(sum + eps) : 1.0f;
}

}  // namespace fla::cuda
