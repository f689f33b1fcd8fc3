// What the first kernel of a prefill makes of RecurrenceProjections that a token and head has one
// of: its log decay, its write strength.
#pragma once

#include "kernels/cuda/chunk_window.cuh"
#include "kernels/cuda/gates.cuh"

namespace fla::cuda {

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
