// What the first kernel of a prefill makes of RecurrenceProjections while it reads them.
//
// It is bound by instructions as much as by memory, so that a decay per channel, 64 for each lane
// and chunk, goes by the fast exponentials, with log decays within 3e-6 of LogDecayOf's.
#pragma once

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/gates.cuh"

namespace fla::cuda {

// log(1 + e^x), relative error 1e-6: of log1p's argument no digit is lost.
__device__ __forceinline__ float FastSoftplus(float x) {
  const float e = Exp2(-kLog2E * fabsf(x));
  // log1p(e) / e on [0, 1], by Chebyshev's points; 1 at 0.
  float p = 0.00718410546f;
  p = p * e - 0.037107572f;
  p = p * e + 0.090190582f;
  p = p * e - 0.146362603f;
  p = p * e + 0.195396289f;
  p = p * e - 0.249462306f;
  p = p * e + 0.333308607f;
  p = p * e - 0.499999821f;
  p = p * e + 1.0f;
  return p * e + fmaxf(x, 0.0f);  // NaN stays, by e
}

// LogDecay's rate of a head, e^a_log or 1. Such that its product with an infinity is one.
__device__ __forceinline__ float RateOf(const LogDecayArgs& args, int head) {
  return args.a_log != nullptr ? fmaxf(expf(args.a_log[head]), 1e-37f) : 1.0f;
}

// Two gates, bf16, of which DecaysOf makes 1 whatever their bias: behind a sequence's end.
__device__ __forceinline__ uint32_t OpenGates(GateKind kind) {
  return kind == GateKind::kLogSigmoid ? 0x7f807f80u : 0xff80ff80u;  // infinities
}

// x becomes exp(LogDecayOf(x)) of a head with RateOf; it has its dt_bias.
template <int N>
__device__ __forceinline__ void DecaysOf(const LogDecayArgs& args, float rate, float (&x)[N]) {
  switch (args.kind) {
    case GateKind::kLogSigmoid: {
      const float factor = -kLog2E / args.normalizer, least = kLog2E * args.clamp_min;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float decay = factor * FastSoftplus(-x[i]);
        x[i] = Exp2(decay < least ? least : decay);  // NaN stays NaN
      }
      return;
    }
    case GateKind::kSoftplus: {
      const float factor = -kLog2E * rate;
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = Exp2(factor * FastSoftplus(x[i]));
      return;
    }
    case GateKind::kBoundedSigmoid: {
      const float bound = kLog2E * args.lower_bound, factor = -kLog2E * rate;
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] = Exp2(bound * Reciprocal(1.0f + Exp2(factor * x[i])));
      return;
    }
  }
}

// The diagonal of a product [16, 16] whose tiles of columns 0-7 and 8-15 these are: its elements in
// rows r and r + 8, in all four lanes of the row.
__device__ __forceinline__ void TakeDiagonal(const float (&left)[4], const float (&right)[4],
                                             float (&diagonal)[2]) {
  const int lane = threadIdx.x % 32, r = lane / 4, holder = lane / 4 * 4 + r / 2;
  diagonal[0] = __shfl_sync(~0u, r % 2 ? left[1] : left[0], holder);
  diagonal[1] = __shfl_sync(~0u, r % 2 ? right[3] : right[2], holder);
}

// What a head of that squared length is multiplied by.
__device__ __forceinline__ float FactorOfSquares(HeadNorm norm, float squares, float eps) {
  return norm == HeadNorm::kL2 ? rsqrtf(squares + eps) : 1.0f;
}

// As LoadLogDecay, of projections where there are some; few, so that they go by LogDecayOf.
__device__ __forceinline__ float LoadLogDecay(const RecurrenceParams& p,
                                              const RecurrenceProjections& from, int64_t token,
                                              int h) {
  const LogDecayArgs& gates = from.log_decay;
  if (gates.x.data == nullptr) return LoadLogDecay(p, token, h);
  const int head = h / p.decay_group;
  const float gate = __bfloat162float(RowOf<const __nv_bfloat16>(gates.x, token)[head]);
  return LogDecayOf(gates, head, gates.dt_bias != nullptr ? gate + gates.dt_bias[head] : gate);
}

__device__ __forceinline__ float ProjectedBeta(const RecurrenceProjections& from, int64_t token,
                                               int head) {
  return from.beta_scale *
         Sigmoid(__bfloat162float(RowOf<const __nv_bfloat16>(from.beta, token)[head]));
}

__device__ __forceinline__ float LoadBeta(const RecurrenceParams& p,
                                          const RecurrenceProjections& from, int64_t token,
                                          int head) {
  return from.beta.data != nullptr ? ProjectedBeta(from, token, head)
                                   : p.beta[token * p.heads + head];
}

}  // namespace fla::cuda
