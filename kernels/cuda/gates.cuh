// From the projections of gates to log decays.
#pragma once

#include "kernels/cuda/elements.cuh"
#include "kernels/ops.h"

namespace fla::cuda {

__device__ inline float Softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
__device__ inline float LogSigmoid(float x) { return fminf(x, 0.0f) - log1pf(expf(-fabsf(x))); }

// Of one channel of `head`; x has its dt_bias.
__device__ inline float LogDecayOf(const LogDecayArgs& args, int head, float x) {
  const float rate = args.a_log != nullptr ? expf(args.a_log[head]) : 1.0f;
  switch (args.kind) {
    case GateKind::kLogSigmoid: {
      const float decay = LogSigmoid(x) / args.normalizer;
      return decay < args.clamp_min ? args.clamp_min : decay;  // NaN stays NaN
    }
    case GateKind::kSoftplus:
      return -rate * Softplus(x);
    case GateKind::kBoundedSigmoid:
      return args.lower_bound * Sigmoid(rate * x);
  }
  return x;
}

}  // namespace fla::cuda
