// How the kernels of DecodeLinear make their own input (kernels/decode.h): from the residual stream
// through RmsNorm, from the recurrence's output through OutputNorm, or as it is.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/warp_sum.cuh"
#include "kernels/decode.h"

namespace fla::cuda {

constexpr int kInputWarps = 8;
constexpr int kInputThreads = 32 * kInputWarps;
constexpr int kHeadPieces = 2;  // of a lane: heads of up to 512

inline bool CanStageInput(const DecodeLinearArgs& args) {
  using Input = DecodeLinearArgs::Input;
  const Matrix& x = args.x;
  const DType wanted = args.input == Input::kNormed ? DType::kF32 : DType::kBF16;
  if (x.dtype != wanted || !Vectorizable(x.cols, {x}) || !IsAligned(args.norm_weight)) return false;
  if (args.input != Input::kHeadsNormed) return true;
  return Vectorizable(args.head_dim, {x, args.gate}) && x.cols % args.head_dim == 0 &&
         args.head_dim <= kHeadPieces * 32 * kVector &&
         (args.gate.data == nullptr || args.gate_activation == Activation::kSilu ||
          args.gate_activation == Activation::kSigmoid);
}

// Begins to fetch the norm's weights: before the kernel waits for the one before it.
template <DecodeLinearArgs::Input kInput>
__device__ __forceinline__ void PrefetchNorm(const DecodeLinearArgs& args) {
  using Input = DecodeLinearArgs::Input;
  if (kInput == Input::kPlain || args.norm_weight == nullptr) return;
  const int weights = kInput == Input::kNormed ? static_cast<int>(args.x.cols) : args.head_dim;
  for (int i = threadIdx.x; i < weights / kVector; i += kInputThreads) {
    PrefetchToL2(args.norm_weight + i * kVector);
  }
}

// x of eight inputs in the order that the weights have.
template <bool kFp8>
__device__ __forceinline__ void StoreX(__nv_bfloat16* target, uint4 x) {
  if constexpr (kFp8) {
    constexpr int kLower = 0x5410, kUpper = 0x7632;  // halves of two words
    x = make_uint4(__byte_perm(x.x, x.y, kUpper), __byte_perm(x.x, x.y, kLower),
                   __byte_perm(x.z, x.w, kUpper), __byte_perm(x.z, x.w, kLower));
  }
  *reinterpret_cast<uint4*>(target) = x;
}
template <bool kFp8>
__device__ __forceinline__ void StoreX(__nv_bfloat16* target, const float (&x)[kVector]) {
  StoreX<kFp8>(target,
               make_uint4(Pack(x[0], x[1]), Pack(x[2], x[3]), Pack(x[4], x[5]), Pack(x[6], x[7])));
}

// x of so many tokens to shared memory, bf16, rows `stride` apart. kNormed leaves out the division
// by the root mean square, and writes every warp's share of the sum of squares.
template <DecodeLinearArgs::Input kInput, bool kFp8, int kMaxTokens>
__device__ void StageInput(const DecodeLinearArgs& args, int first, int tokens,
                           __nv_bfloat16* staged, int stride,
                           float (&squares)[kMaxTokens][kInputWarps]) {
  using Input = DecodeLinearArgs::Input;
  const auto in = static_cast<int>(args.x.cols);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if constexpr (kInput == Input::kPlain) {
    const int pieces = in / kVector;
    for (int i = threadIdx.x; i < tokens * pieces; i += kInputThreads) {
      const int token = i / pieces, column = i % pieces * kVector;
      StoreX<kFp8>(staged + token * stride + column,
                   *reinterpret_cast<const uint4*>(
                       RowOf<const __nv_bfloat16>(args.x, first + token) + column));
    }
  } else if constexpr (kInput == Input::kNormed) {
    for (int token = 0; token < tokens; ++token) {
      const float* x = RowOf<const float>(args.x, first + token);
      float sum = 0.0f;
      for (int column = threadIdx.x * kVector; column < in; column += kInputThreads * kVector) {
        float values[kVector], weights[kVector];
        Load(x + column, values);
        Load(args.norm_weight + column, weights);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          sum += values[i] * values[i];
          values[i] *= weights[i];
        }
        StoreX<kFp8>(staged + token * stride + column, values);
      }
      sum = WarpSum(sum);
      if (lane == 0) squares[token][warp] = sum;
    }
  } else {
    const int heads = in / args.head_dim;
    const bool has_weights = args.normalize && args.norm_weight != nullptr;
    const bool gated = args.gate.data != nullptr;
    // No other activation is in use, and code that is not there need not be fetched.
    const bool silu = args.gate_activation == Activation::kSilu;
    for (int pair = warp; pair < tokens * heads; pair += kInputWarps) {
      const int token = pair / heads, begin = pair % heads * args.head_dim;
      const __nv_bfloat16* const x = RowOf<const __nv_bfloat16>(args.x, first + token) + begin;
      const __nv_bfloat16* const gate =
          gated ? RowOf<const __nv_bfloat16>(args.gate, first + token) + begin : nullptr;
      // All that is read is asked for before anything is waited for; what lies behind the head is
      // read as its last elements and not used.
      uint4 raw[kHeadPieces], raw_gates[kHeadPieces];
      float weights[kHeadPieces][kVector];
#pragma unroll
      for (int i = 0; i < kHeadPieces; ++i) {
        const int column = min((i * 32 + lane) * kVector, args.head_dim - kVector);
        raw[i] = *reinterpret_cast<const uint4*>(x + column);
        if (gated) raw_gates[i] = *reinterpret_cast<const uint4*>(gate + column);
        if (has_weights) Load(args.norm_weight + column, weights[i]);
      }
      float values[kHeadPieces][kVector];
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kHeadPieces; ++i) {
        Load(reinterpret_cast<const __nv_bfloat16*>(&raw[i]), values[i]);
        if ((i * 32 + lane) * kVector < args.head_dim) {
#pragma unroll
          for (int j = 0; j < kVector; ++j) sum += values[i][j] * values[i][j];
        }
      }
      sum = WarpSum(sum);
      const float factor =
          args.normalize ? rsqrtf(sum / static_cast<float>(args.head_dim) + args.eps) : 1.0f;
#pragma unroll
      for (int i = 0; i < kHeadPieces; ++i) {
        const int column = (i * 32 + lane) * kVector;
        float gates[kVector];
        if (gated) Load(reinterpret_cast<const __nv_bfloat16*>(&raw_gates[i]), gates);
#pragma unroll
        for (int j = 0; j < kVector; ++j) {
          values[i][j] *= factor;
          if (has_weights) values[i][j] *= weights[i][j];
          if (gated) {
            values[i][j] *= Sigmoid<__nv_bfloat16>(gates[j]) * (silu ? gates[j] : 1.0f);
          }
        }
        if (column < args.head_dim) {
          StoreX<kFp8>(staged + token * stride + begin + column, values[i]);
        }
      }
    }
  }
}

}  // namespace fla::cuda
