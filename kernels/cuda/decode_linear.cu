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
//
// Of weights in eight bits (kernels/fp8.h) the 16 bytes are 16 inputs, which the lane widens to
// bf16, scale and all; what widening does to the order of four neighbours is done to x too.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/decode_input.cuh"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/fp8.cuh"

namespace fla::cuda {
namespace {

using Input = DecodeLinearArgs::Input;
using Output = DecodeLinearArgs::Output;

constexpr int kThreads = kInputThreads, kWarps = kInputWarps;
constexpr int kTile = 16;  // weight rows of a tile
constexpr int kRun = 64;   // inputs of a run
constexpr int kMaxTokens = kMaxDecodeLinearRows;
static_assert(kMaxTokens <= 8);  // the tokens of a product
// Elements between rows of x in shared memory: no bank conflicts.
constexpr int PaddingOf(bool fp8) { return fp8 ? 8 : 32; }
static_assert(PaddingOf(true) % kVector == 0 && PaddingOf(false) % kVector == 0);
constexpr size_t kMaxShared = 200 * 1024;
constexpr size_t kSharedByDefault =
    32 * 1024;  // that a launch may always ask for, beside the static

struct DecodeLinearParams {
  DecodeLinearArgs args;
  int tokens, in, out;
  int split;      // warps of a group: 1, 2, 4 or 8
  int tile_step;  // rows between the tiles of a warp
};

// One lane's share of a run of one tile's weights: rows r and r + 8, inputs 8 t .. and 32 + 8 t ..,
// in eight bits 16 t ..
template <bool kFp8>
struct Fragment {
  static constexpr int kLaneStep = kFp8 ? 16 : 8;  // inputs
  static constexpr int kLoads = kFp8 ? 1 : 2;
  static_assert(kRun == 4 * kLaneStep * kLoads);
  uint4 low[kLoads], high[kLoads];

  // at: of row r's and row r + 8's first input.
  template <typename T>
  __device__ __forceinline__ void Load(const T* of_low, const T* of_high, int at) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      low[i] = LoadOnce(of_low + at + 32 * i);
      high[i] = LoadOnce(of_high + at + 32 * i);
    }
  }
};

// Eight bytes as operands of two products.
__device__ __forceinline__ uint4 WidenEight(uint32_t first, uint32_t second,
                                            __nv_bfloat162 factor) {
  uint4 wide;
  Widen(first, factor, wide.x, wide.y);
  Widen(second, factor, wide.z, wide.w);
  return wide;
}

// Runs ahead of the products: weights of kDepth runs are in registers or on their way.
// grid (row tiles / kRowTiles / groups of a block), block (kThreads), shared bf16 [T][in + padding]
template <Input kInput, Output kOutput, bool kFp8>
__global__ void __launch_bounds__(kThreads, kOutput == Output::kAdd ? 1 : 3)
    DecodeLinearKernel(const DecodeLinearParams p) {
  constexpr int kRowTiles = kOutput == Output::kSwiGlu ? 2 : 1;
  constexpr int kDepth = (kOutput == Output::kAdd ? 6 : 2 / kRowTiles) * (kFp8 ? 2 : 1);
  using Weight = std::conditional_t<kFp8, uint8_t, __nv_bfloat16>;
  using Fragment = Fragment<kFp8>;
  __shared__ float squares[kMaxTokens][kWarps];
  __shared__ float4 sums[kWarps][kRowTiles][32];
  const DecodeLinearArgs& args = p.args;
  auto* const staged = reinterpret_cast<__nv_bfloat16*>(DynamicShared());
  const int stride = p.in + PaddingOf(kFp8);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = lane / 4, t = lane % 4;
  const int groups = kWarps / p.split, part = warp % p.split;
  const int first_row = (blockIdx.x * groups + warp / p.split) * kTile;

  BeginNextKernel();
  const Weight *low[kRowTiles], *high[kRowTiles];
  __nv_bfloat162 factors[kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    // Rows past the end are read as the last one; their sums are not stored.
    const int last = p.out - 1, offset = tile * p.tile_step;
    const int rows[2] = {min(first_row + r, last) + offset, min(first_row + r + 8, last) + offset};
    low[tile] = RowOf<const Weight>(args.weight, rows[0]) + Fragment::kLaneStep * t;
    high[tile] = RowOf<const Weight>(args.weight, rows[1]) + Fragment::kLaneStep * t;
    if constexpr (kFp8) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        factors[tile][i] = WideningFactor(args.weight.scales[rows[i]]);
      }
    }
  }
  const int runs = p.in / kRun, mine = (runs - part + p.split - 1) / p.split;
  const auto at = [&](int i) { return (i * p.split + part) * kRun; };
  Fragment weights[kDepth][kRowTiles];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (d >= mine) break;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      weights[d][tile].Load(low[tile], high[tile], at(d));
    }
  }

  PrefetchNorm<kInput>(args);
  AwaitPreviousKernel();
  StageInput<kInput, kFp8>(args, 0, p.tokens, staged, stride, squares);
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
          const int input = kFp8 ? 16 * t + 8 * half : 32 * half + 8 * t;
          x = *reinterpret_cast<const uint4*>(staged + r * stride + at(base + d) + input);
        }
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          const Fragment& of_tile = weights[d][tile];
          uint4 a, b;
          if constexpr (kFp8) {
            const uint4 low = of_tile.low[0], high = of_tile.high[0];
            const bool first = half == 0;
            a = WidenEight(first ? low.x : low.z, first ? low.y : low.w, factors[tile][0]);
            b = WidenEight(first ? high.x : high.z, first ? high.y : high.w, factors[tile][1]);
          } else {
            a = of_tile.low[half], b = of_tile.high[half];
          }
          MultiplyAdd(sum[tile], a.x, b.x, a.y, b.y, x.x, x.y);
          MultiplyAdd(sum[tile], a.z, b.z, a.w, b.w, x.z, x.w);
        }
      }
      if (base + d + kDepth < mine) {
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          weights[d][tile].Load(low[tile], high[tile], at(base + d + kDepth));
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

template <Input kInput, Output kOutput, bool kFp8>
void LaunchOf(const DecodeLinearParams& p, cudaStream_t stream, bool chained) {
  const auto kernel = DecodeLinearKernel<kInput, kOutput, kFp8>;
  const dim3 grid(DivideUp(p.out, kTile * (kWarps / p.split)));
  const size_t shared = sizeof(__nv_bfloat16) * p.tokens * (p.in + PaddingOf(kFp8));
  if (shared > kSharedByDefault) {
    Check(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  }
  Check(LaunchChained(kernel, grid, dim3(kThreads), shared, stream, chained, p), "DecodeLinear");
}
template <Input kInput, Output kOutput>
void Launch(const DecodeLinearParams& p, cudaStream_t stream, bool chained) {
  if (p.args.weight.dtype == DType::kF8E4M3) {
    LaunchOf<kInput, kOutput, true>(p, stream, chained);
  } else {
    LaunchOf<kInput, kOutput, false>(p, stream, chained);
  }
}

}  // namespace

bool HasDecodeLinear(const DecodeLinearArgs& args) {
  const Matrix& x = args.x;
  const DType dtype = args.weight.dtype;
  if (x.rows < 1 || x.rows > kMaxTokens) return false;
  if (dtype != DType::kBF16 && dtype != DType::kF8E4M3) return false;
  if (x.cols % kRun != 0 || !Vectorizable(x.cols, {args.weight})) return false;
  if (x.rows * (x.cols + PaddingOf(dtype == DType::kF8E4M3)) * SizeOf(DType::kBF16) > kMaxShared)
    return false;
  if (!CanStageInput(args)) return false;
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
