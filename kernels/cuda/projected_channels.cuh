// What the first kernel of a prefill (chunk_prepare.cu) makes of RecurrenceProjections where decay
// is per channel: norms of queries and keys, decays of gates.
//
// It is bound by instructions as much as by memory, so that the decays, 64 for each lane and chunk,
// go by the fast exponentials, with log decays within 3e-6 of LogDecayOf's. Norms are f32 factors
// on what is made of queries and keys: the sums of squares are the diagonal of a product, a first
// time over the chunk's rows, which the second time come from the L1 cache.
#pragma once

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_triangles.cuh"
#include "kernels/cuda/head_norm.cuh"

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

__device__ __forceinline__ bool HasNorm(const RecurrenceProjections& from) {
  return from.q_norm != HeadNorm::kNone || from.k_norm != HeadNorm::kNone;
}

// What the norms multiply rows r and r + 8 by.
struct RowFactors {
  float q[2] = {1.0f, 1.0f}, k[2] = {1.0f, 1.0f};
};

// Sums of squares of channels first + 8 t and on, every `step`: of q in rows r and r + 8, then of
// k.
__device__ __forceinline__ void FindSquares(const RecurrenceParams& p, const ChunkWork& work,
                                            int q_column, int k_column, int first, int step,
                                            float (&squares)[4]) {
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int64_t row = work.first_token + r;
  float qq[2][4] = {}, kk[2][4] = {};
#pragma unroll 2
  for (int c = first + 8 * t; c < p.key_dim + 8 * t; c += step) {
    uint32_t q[2][4], k[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool valid = c < p.key_dim && r + 8 * half < work.num_tokens;
      LoadQueryAndKey(p, row + 8 * half, q_column + c, k_column + c, valid, q[half], k[half]);
    }
#pragma unroll
    for (int w = 0; w < 4; w += 2) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        MultiplyAdd(qq[half], q[0][w], q[1][w], q[0][w + 1], q[1][w + 1], q[half][w],
                    q[half][w + 1]);
        MultiplyAdd(kk[half], k[0][w], k[1][w], k[0][w + 1], k[1][w + 1], k[half][w],
                    k[half][w + 1]);
      }
    }
  }
  float q_squares[2], k_squares[2];
  TakeDiagonal(qq[0], qq[1], q_squares);
  TakeDiagonal(kk[0], kk[1], k_squares);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    squares[half] = q_squares[half];
    squares[2 + half] = k_squares[half];
  }
}

__device__ __forceinline__ RowFactors FactorsOf(const RecurrenceProjections& from,
                                                const float (&squares)[4]) {
  RowFactors factors;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    factors.q[half] = L2NormFactor(from.q_norm, squares[half], from.norm_eps);
    factors.k[half] = L2NormFactor(from.k_norm, squares[2 + half], from.norm_eps);
  }
  return factors;
}

// Multiplies queries and keys by their factors in what has been made of them: tiles of columns 0-7
// and 8-15.
template <bool kDelta>
__device__ __forceinline__ void ScaleTriangles(const RowFactors& factors, float (&attention)[2][4],
                                               float (&lower)[2][4]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < 2; ++tile) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float of_column = __shfl_sync(~0u, factors.k[tile], (2 * t + e) * 4);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        attention[tile][2 * half + e] *= factors.q[half] * of_column;
        if constexpr (kDelta) lower[tile][2 * half + e] *= factors.k[half] * of_column;
      }
    }
  }
}

// The gates of a lane's rows of one head.
class ChannelGates {
 public:
  __device__ __forceinline__ ChannelGates(const LogDecayArgs& args, int64_t row, int head,
                                          int key_dim)
      : args_(args),
        rate_(RateOf(args, head)),
        x_(RowOf<const __nv_bfloat16>(args.x, row) + head * key_dim),
        bias_(args.dt_bias != nullptr ? args.dt_bias + head * key_dim : nullptr) {}

  // Brings all channels of the chunk's tokens near: lines of 128 bytes, from token `row` on.
  static __device__ __forceinline__ void Prefetch(const LogDecayArgs& args, int64_t row, int head,
                                                  int key_dim, int tokens) {
    const int lane = threadIdx.x % 32, token = lane % kChunk;
    if (token >= tokens) return;
    const auto* const x = RowOf<const __nv_bfloat16>(args.x, row + token) + head * key_dim;
    for (int c = lane / kChunk * 64; c < key_dim; c += 128) PrefetchToL2(x + c);
  }

  // Channels [c, c + 8) of token r + 8 half, as they are in memory.
  __device__ __forceinline__ uint4 Load(int half, int c, bool valid) const {
    return LoadRow(x_, 8 * half, args_.x.stride, c, valid, OpenGates(args_.kind));
  }
  // Their decays.
  __device__ __forceinline__ void Open(const uint4& gates, int c, bool inside,
                                       float (&decay)[8]) const {
    Unpack(reinterpret_cast<const uint32_t(&)[4]>(gates), 1.0f, decay);
    if (bias_ != nullptr && inside) {
      float bias[8];
      cuda::Load(bias_ + c, bias);
#pragma unroll
      for (int i = 0; i < 8; ++i) decay[i] += bias[i];
    }
    DecaysOf(args_, rate_, decay);
  }

 private:
  const LogDecayArgs& args_;
  const float rate_;
  const __nv_bfloat16* const x_;
  const float* const bias_;
};

}  // namespace fla::cuda
