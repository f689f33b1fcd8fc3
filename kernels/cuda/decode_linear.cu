// Linear of up to kMaxTokens rows, bound by the reading of its weights.
//
// Tensor cores do the products (m16n8k16: 16 rows of the weight, 8 tokens), because they take
// operands as they lie in memory: a lane reads 16 bytes of two weight rows, eight neighbouring
// inputs of each, straight into registers. The order of a sum's terms is free, so those eight are
// declared to be what two products want of this lane, and the same is done to x. No weight goes
// through shared memory.
//
// A group of `split` warps shares kRowTiles tiles of 16 weight rows; its warps take every split-th
// run of 64 inputs and add up their sums in a fixed order: a row's bits depend neither on the
// number of tokens nor on the other rows. The first weights are on their way before the kernel
// waits for the one before it.
#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"

namespace fla::cuda {
namespace {

using Input = DecodeLinearArgs::Input;
using Output = DecodeLinearArgs::Output;

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTile = 16;       // weight rows of a tile
constexpr int kRun = 64;        // inputs of a run
constexpr int kHeadPieces = 2;  // of a lane: heads of up to 512
constexpr int kMaxTokens = kMaxDecodeLinearRows;
static_assert(kMaxTokens <= 8);  // the tokens of a product
constexpr int kPadding = 32;     // elements between rows of x in shared memory: no bank conflicts
constexpr size_t kMaxShared = 200 * 1024;
constexpr size_t kSharedByDefault =
    32 * 1024;  // that a launch may always ask for, beside the static

struct DecodeLinearParams {
  DecodeLinearArgs args;
  int tokens, in, out;
  int split;      // warps of a group: 1, 2, 4 or 8
  int tile_step;  // rows between the tiles of a warp
};

// One lane's share of a run of one tile's weights: rows r and r + 8, inputs 8 t .. and 32 + 8 t ..
struct Fragment {
  uint4 low[2], high[2];
};

__device__ __forceinline__ Fragment LoadWeights(const __nv_bfloat16* low, const __nv_bfloat16* high,
                                                int at) {
  return {{LoadOnce(low + at), LoadOnce(low + at + 32)},
          {LoadOnce(high + at), LoadOnce(high + at + 32)}};
}

// x of all tokens to shared memory, bf16, rows `stride` apart. kNormed leaves out the division by
// the root mean square, and writes every warp's share of the sum of squares.
template <Input kInput>
__device__ void StageInput(const DecodeLinearParams& p, __nv_bfloat16* staged, int stride,
                           float (&squares)[kMaxTokens][kWarps]) {
  const DecodeLinearArgs& args = p.args;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if constexpr (kInput == Input::kPlain) {
    const int pieces = p.in / kVector;
    for (int i = threadIdx.x; i < p.tokens * pieces; i += kThreads) {
      const int token = i / pieces, column = i % pieces * kVector;
      *reinterpret_cast<uint4*>(staged + token * stride + column) =
          *reinterpret_cast<const uint4*>(RowOf<const __nv_bfloat16>(args.x, token) + column);
    }
  } else if constexpr (kInput == Input::kNormed) {
    for (int token = 0; token < p.tokens; ++token) {
      const float* x = RowOf<const float>(args.x, token);
      float sum = 0.0f;
      for (int column = threadIdx.x * kVector; column < p.in; column += kThreads * kVector) {
        float values[kVector], weights[kVector];
        Load(x + column, values);
        Load(args.norm_weight + column, weights);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          sum += values[i] * values[i];
          values[i] *= weights[i];
        }
        Store(staged + token * stride + column, values);
      }
      for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
      if (lane == 0) squares[token][warp] = sum;
    }
  } else {
    const int heads = p.in / args.head_dim;
    const bool has_weights = args.normalize && args.norm_weight != nullptr;
    const bool gated = args.gate.data != nullptr;
    // No other activation is in use, and code that is not there need not be fetched.
    const bool silu = args.gate_activation == Activation::kSilu;
    for (int pair = warp; pair < p.tokens * heads; pair += kWarps) {
      const int token = pair / heads, begin = pair % heads * args.head_dim;
      const __nv_bfloat16* const x = RowOf<const __nv_bfloat16>(args.x, token) + begin;
      const __nv_bfloat16* const gate =
          gated ? RowOf<const __nv_bfloat16>(args.gate, token) + begin : nullptr;
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
      for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
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
        if (column < args.head_dim) Store(staged + token * stride + begin + column, values[i]);
      }
    }
  }
}

// Runs ahead of the products: weights of kDepth runs are in registers or on their way.
// grid (row tiles / kRowTiles / groups of a block), block (kThreads), shared bf16 [T][in + padding]
template <Input kInput, Output kOutput>
__global__ void __launch_bounds__(kThreads, kOutput == Output::kAdd ? 1 : 3)
    DecodeLinearKernel(const DecodeLinearParams p) {
  constexpr int kRowTiles = kOutput == Output::kSwiGlu ? 2 : 1;
  constexpr int kDepth = kOutput == Output::kAdd ? 6 : 2 / kRowTiles;
  __shared__ float squares[kMaxTokens][kWarps];
  __shared__ float4 sums[kWarps][kRowTiles][32];
  const DecodeLinearArgs& args = p.args;
  auto* const staged = reinterpret_cast<__nv_bfloat16*>(DynamicShared());
  const int stride = p.in + kPadding;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = lane / 4, t = lane % 4;
  const int groups = kWarps / p.split, part = warp % p.split;
  const int first_row = (blockIdx.x * groups + warp / p.split) * kTile;

  BeginNextKernel();
  const __nv_bfloat16 *low[kRowTiles], *high[kRowTiles];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    // Rows past the end are read as the last one; their sums are not stored.
    const int last = p.out - 1, offset = tile * p.tile_step;
    low[tile] = RowOf<const __nv_bfloat16>(args.weight, min(first_row + r, last) + offset) + 8 * t;
    high[tile] =
        RowOf<const __nv_bfloat16>(args.weight, min(first_row + r + 8, last) + offset) + 8 * t;
  }
  const int runs = p.in / kRun, mine = (runs - part + p.split - 1) / p.split;
  const auto at = [&](int i) { return (i * p.split + part) * kRun; };
  Fragment weights[kDepth][kRowTiles];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (d >= mine) break;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      weights[d][tile] = LoadWeights(low[tile], high[tile], at(d));
    }
  }

  if constexpr (kInput != Input::kPlain) {
    const int weights = kInput == Input::kNormed ? p.in : args.head_dim;
    if (args.norm_weight != nullptr) {
      for (int i = threadIdx.x; i < weights / kVector; i += kThreads) {
        PrefetchToL2(args.norm_weight + i * kVector);
      }
    }
  }

  AwaitPreviousKernel();
  StageInput<kInput>(p, staged, stride, squares);
  __syncthreads();

  float sum[kRowTiles][4] = {};
  for (int base = 0; base < mine; base += kDepth) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (base + d >= mine) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4 x = make_uint4(0, 0, 0, 0);
        if (r < p.tokens) {
          x = *reinterpret_cast<const uint4*>(staged + r * stride + at(base + d) + 32 * half +
                                              8 * t);
        }
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          const uint4 a = weights[d][tile].low[half], b = weights[d][tile].high[half];
          MultiplyAdd(sum[tile], a.x, b.x, a.y, b.y, x.x, x.y);
          MultiplyAdd(sum[tile], a.z, b.z, a.w, b.w, x.z, x.w);
        }
      }
      if (base + d + kDepth < mine) {
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          weights[d][tile] = LoadWeights(low[tile], high[tile], at(base + d + kDepth));
        }
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    const float(&of_tile)[4] = sum[tile];
    sums[warp][tile][lane] = make_float4(of_tile[0], of_tile[1], of_tile[2], of_tile[3]);
  }
  __syncthreads();

  // Element e of a lane's four: row r + 8 (e / 2), token 2 t + e % 2.
  constexpr int kElements = 32 * 4;
  for (int i = threadIdx.x; i < groups * kElements; i += kThreads) {
    const int group = i / kElements, of_lane = i / 4 % 32, e = i % 4;
    const int token = of_lane % 4 * 2 + e % 2;
    const int row = (blockIdx.x * groups + group) * kTile + of_lane / 4 + e / 2 * 8;
    if (token >= p.tokens || row >= p.out) continue;
    float values[kRowTiles];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      values[tile] = 0.0f;
      for (int w = group * p.split; w < (group + 1) * p.split; ++w) {
        values[tile] += reinterpret_cast<const float*>(&sums[w][tile][of_lane])[e];
      }
    }
    if constexpr (kInput == Input::kNormed) {
      float total = 0.0f;
      for (int w = 0; w < kWarps; ++w) total += squares[token][w];
      const float factor = rsqrtf(total / static_cast<float>(p.in) + args.eps);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) values[tile] *= factor;
    }
    if constexpr (kOutput == Output::kSwiGlu) {
      const float gated = values[0] * Sigmoid<__nv_bfloat16>(values[0]) * values[1];
      RowOf<__nv_bfloat16>(args.out, token)[row] = FromFloat<__nv_bfloat16>(gated);
    } else {
      const float value = values[0];
      if constexpr (kOutput == Output::kAdd) {
        RowOf<float>(args.out, token)[row] += value;
      } else if (args.out.dtype == DType::kF32) {
        RowOf<float>(args.out, token)[row] = value;
      } else {
        RowOf<__nv_bfloat16>(args.out, token)[row] = FromFloat<__nv_bfloat16>(value);
      }
    }
  }
}

template <Input kInput, Output kOutput>
void Launch(const DecodeLinearParams& p, cudaStream_t stream, bool chained) {
  const auto kernel = DecodeLinearKernel<kInput, kOutput>;
  const int rows_a_block = kTile * (kWarps / p.split);
  const dim3 grid((p.out + rows_a_block - 1) / rows_a_block);
  const size_t shared = sizeof(__nv_bfloat16) * p.tokens * (p.in + kPadding);
  if (shared > kSharedByDefault) {
    Check(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  }
  Check(LaunchChained(kernel, grid, dim3(kThreads), shared, stream, chained, p), "DecodeLinear");
}

}  // namespace

bool HasDecodeLinear(const DecodeLinearArgs& args) {
  const Matrix& x = args.x;
  if (x.rows < 1 || x.rows > kMaxTokens || args.weight.dtype != DType::kBF16) return false;
  if (x.cols % kRun != 0 || !Vectorizable(x.cols, {x, args.weight})) return false;
  if (x.rows * (x.cols + kPadding) * SizeOf(DType::kBF16) > kMaxShared) return false;
  const DType wanted = args.input == Input::kNormed ? DType::kF32 : DType::kBF16;
  if (x.dtype != wanted || !IsAligned(args.norm_weight)) return false;
  if (args.input == Input::kHeadsNormed &&
      (!Vectorizable(args.head_dim, {x, args.gate}) || x.cols % args.head_dim != 0 ||
       args.head_dim > kHeadPieces * 32 * kVector ||
       (args.gate.data != nullptr && args.gate_activation != Activation::kSilu &&
        args.gate_activation != Activation::kSigmoid))) {
    return false;
  }
  switch (args.output) {
    case Output::kStore:
      return args.input == Input::kNormed && args.out.dtype != DType::kF16;
    case Output::kAdd:
      return args.input != Input::kNormed && args.out.dtype == DType::kF32;
    case Output::kSwiGlu:
      return args.input == Input::kNormed && args.out.dtype == DType::kBF16;
  }
  return false;
}

bool LaunchDecodeLinear(const DecodeLinearArgs& args, cudaStream_t stream, bool chained) {
  if (!HasDecodeLinear(args)) return false;
  DecodeLinearParams p = {args};
  p.tokens = static_cast<int>(args.x.rows);
  p.in = static_cast<int>(args.x.cols);
  p.out = static_cast<int>(args.out.cols);
  p.tile_step = p.out;  // from gates to ups
  p.split = kWarps;
  while (p.split > 1 && p.in / kRun < 2 * p.split) p.split /= 2;

  switch (args.output) {
    case Output::kStore:
      Launch<Input::kNormed, Output::kStore>(p, stream, chained);
      break;
    case Output::kAdd:
      if (args.input == Input::kPlain) {
        Launch<Input::kPlain, Output::kAdd>(p, stream, chained);
      } else {
        Launch<Input::kHeadsNormed, Output::kAdd>(p, stream, chained);
      }
      break;
    case Output::kSwiGlu:
      Launch<Input::kNormed, Output::kSwiGlu>(p, stream, chained);
      break;
  }
  return true;
}

}  // namespace fla::cuda
