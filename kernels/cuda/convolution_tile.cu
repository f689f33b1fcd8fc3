// The short convolution of tiles of tokens. It is bound by memory only while its instructions are
// few, hence the narrow case: a thread has four channels, with taps and the last inputs in
// registers, and kAhead tokens on their way while it computes.
//
// The norm of queries and keys adds up squares over the threads of a head, kGroup tokens at a time.
// Outputs wait for it in f32 and are rounded once.
#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/convolution_tile.cuh"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRun = 4;   // channels of a thread
constexpr int kTaps = 4;  // of the convolution
constexpr int kAhead = 8;
constexpr int kGroup = 4;
static_assert(kAhead % kGroup == 0 && kAhead % kTaps == 0);

using Bf16 = __nv_bfloat16;
using Run = cuda::Run<Bf16, kRun>;
using Scratch = float[2][kThreads / 32][kGroup];

struct TileArgs {
  ShortConvolutionArgs convolution;
  uint32_t x_stride, out_stride;  // bytes
  int tile_tokens;
  bool norms;
  bool updates;  // states
  bool early;    // in a recorded step: what indices and states say is known before x is there
};

// A tile's tokens [begin, end) for the calling thread's channels.
struct Tile {
  int begin, end;
  int sequence;  // that holds the first of them
  int channel;
  bool has_channel;  // else the thread does what the last one with channels does but for stores
};

// What outputs of the calling thread's head, a power of two of neighbours, are multiplied by, of
// the sums of squares of the thread's own channels. Lanes first hand each other half of their
// tokens, so that kGroup sums take little more shuffles than one. `scratch`: another one than in
// the call before.
__device__ __forceinline__ void HeadFactors(int threads, float eps, const float (&sums)[kGroup],
                                            float (&scratch)[kThreads / 32][kGroup],
                                            float (&factors)[kGroup]) {
  static_assert(kGroup == 4);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto exchange = [](float kept, float given, int distance) {
    return kept + __shfl_xor_sync(~0u, given, distance);
  };
  const bool upper = lane & 2, odd = lane & 1;
  const float even_sum = exchange(upper ? sums[2] : sums[0], upper ? sums[0] : sums[2], 2);
  const float odd_sum = exchange(upper ? sums[3] : sums[1], upper ? sums[1] : sums[3], 2);
  float sum = exchange(odd ? odd_sum : even_sum, odd ? even_sum : odd_sum, 1);  // of token lane % 4
#pragma unroll
  for (int distance = 4; distance < 32; distance *= 2) {
    if (distance < threads) sum += __shfl_xor_sync(~0u, sum, distance);
  }
  if (threads > 32) {
    if (lane < kGroup) scratch[warp][lane] = sum;
    __syncthreads();
#pragma unroll 1
    for (int other = 1; other < threads / 32; ++other) sum += scratch[warp ^ other][lane % kGroup];
  }
  const float factor = rsqrtf(sum + eps);
#pragma unroll
  for (int i = 0; i < kGroup; ++i) factors[i] = __shfl_sync(~0u, factor, i, kGroup);
}

// The taps, times log2 e, and the last inputs of a thread's channels.
struct Channels {
  float taps[kRun][kTaps];
  float inputs[kTaps][kRun];  // a ring: entry t % kTaps is token t's

  __device__ __forceinline__ void LoadTaps(const float* weight) {
#pragma unroll
    for (int c = 0; c < kRun; ++c) {
      Load(weight + c * kTaps, taps[c]);
#pragma unroll
      for (int j = 0; j < kTaps; ++j) taps[c][j] *= kLog2E;
    }
  }

  // Token t's outputs. z = log2 e times the sum of products, y = z ln 2 / (1 + 2^-z).
  __device__ __forceinline__ void Convolve(int t, const Run& run, float (&y)[kRun]) {
    float(&current)[kRun] = inputs[t % kTaps];
    Unpack(run, current);
#pragma unroll
    for (int c = 0; c < kRun; ++c) {
      float z = taps[c][0] * inputs[(t + 1) % kTaps][c];
#pragma unroll
      for (int j = 1; j < kTaps; ++j) z += taps[c][j] * inputs[(t + 1 + j) % kTaps][c];
      y[c] = z * Reciprocal(kLog2E + kLog2E * Exp2(-z));
    }
  }
};

// What the last inputs of a sequence of `length` tokens leave in `state`. x: of its first token,
// before which `inputs` came.
__device__ __forceinline__ void UpdateState(const float (&inputs)[kTaps][kRun], const char* x,
                                            uint32_t x_stride, int length, float* state) {
#pragma unroll
  for (int kept = 0; kept < kTaps - 1; ++kept) {
    const int token = length - (kTaps - 1) + kept;
    float input[kRun];
    if (token >= 0) {
      Unpack(*reinterpret_cast<const Run*>(x + uint64_t{x_stride} * token), input);
    } else {
#pragma unroll
      for (int age = 1; age < kTaps; ++age) {
#pragma unroll
        for (int c = 0; c < kRun; ++c) {
          if (token == -age) input[c] = inputs[kTaps - age][c];
        }
      }
    }
#pragma unroll
    for (int c = 0; c < kRun; ++c) state[c * (kTaps - 1) + kept] = input[c];
  }
}

// Up to kAhead tokens from `token` on, all of them where kFull, which then fetches as many that
// follow if `fetch`. x and out: the first token's.
template <bool kNorm, bool kFull>
__device__ __forceinline__ void ConvolveTokens(const TileArgs& args, const Tile& tile,
                                               const char* x, char* out, int count, bool fetch,
                                               Channels& channels, Run (&ahead)[kAhead],
                                               Scratch& scratch, int& turn) {
#pragma unroll
  for (int group = 0; group < kAhead; group += kGroup) {
    if (!kFull && group >= count) break;
    float values[kGroup][kRun], sums[kGroup] = {};
    const auto store = [&](int i) {
      if (tile.has_channel && (kFull || group + i < count)) {
        Store(reinterpret_cast<Bf16*>(out + uint64_t{args.out_stride} * (group + i)), values[i]);
      }
    };
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const int t = group + i;
      channels.Convolve(t, ahead[t], values[i]);
      if (kFull && fetch) {
        ahead[t] = *reinterpret_cast<const Run*>(x + uint64_t{args.x_stride} * (t + kAhead));
      }
#pragma unroll
      for (int c = 0; c < kRun; ++c) sums[i] += values[i][c] * values[i][c];
      if (!kNorm) store(i);
    }
    if constexpr (kNorm) {
      float factors[kGroup];
      HeadFactors(args.convolution.head_dim / kRun, args.convolution.norm_eps, sums,
                  scratch[turn ^= 1], factors);
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const float factor = tile.channel < args.convolution.normed ? factors[i] : 1.0f;
#pragma unroll
        for (int c = 0; c < kRun; ++c) values[i][c] *= factor;
        store(i);
      }
    }
  }
}

template <bool kNorm>
__device__ __forceinline__ void ConvolveTile(const TileArgs& tile_args, const Tile& tile,
                                             Scratch& scratch) {
  const ShortConvolutionArgs& args = tile_args.convolution;
  const uint32_t x_stride = tile_args.x_stride, out_stride = tile_args.out_stride;
  Channels channels;
  channels.LoadTaps(args.weight + tile.channel * kTaps);
  int turn = 0;
  for (int token = tile.begin, sequence = tile.sequence; token < tile.end; ++sequence) {
    const int begin = args.cu_seqlens[sequence], sequence_end = args.cu_seqlens[sequence + 1];
    const int end = min(sequence_end, tile.end);
    if (token >= end) continue;  // an empty sequence
    const auto* x = reinterpret_cast<const char*>(RowOf<const Bf16>(args.x, token) + tile.channel);
    auto* out = reinterpret_cast<char*>(RowOf<Bf16>(args.out, token) + tile.channel);
    Run ahead[kAhead] = {};
    const auto fetch_some = [&](int count) {
#pragma unroll
      for (int t = 0; t < kAhead; ++t) {
        if (t < count) ahead[t] = *reinterpret_cast<const Run*>(x + uint64_t{x_stride} * t);
      }
    };
    float* state = args.state + args.slots[sequence] * args.slot_stride +
                   static_cast<int64_t>(tile.channel) * (kTaps - 1);
#pragma unroll
    for (int age = 1; age < kTaps; ++age) {
      if (token - age >= begin) continue;
      float(&input)[kRun] = channels.inputs[kTaps - age];
      const int kept = kTaps - 1 - age + token - begin;
#pragma unroll
      for (int c = 0; c < kRun; ++c) input[c] = state[c * (kTaps - 1) + kept];
    }
    AwaitPreviousKernel();  // for x
    fetch_some(end - token);
#pragma unroll
    for (int age = 1; age < kTaps; ++age) {
      if (token - age < begin) continue;
      Unpack(*reinterpret_cast<const Run*>(x - uint64_t{x_stride} * age),
             channels.inputs[kTaps - age]);
    }
    if (tile_args.updates && token == begin && tile.has_channel) {
      UpdateState(channels.inputs, x, x_stride, sequence_end - begin, state);
    }
    for (; token + kAhead <= end; token += kAhead) {
      const int left = end - token - kAhead;
      ConvolveTokens<kNorm, true>(tile_args, tile, x, out, kAhead, left >= kAhead, channels, ahead,
                                  scratch, turn);
      x += uint64_t{x_stride} * kAhead;
      out += uint64_t{out_stride} * kAhead;
      if (left < kAhead) fetch_some(left);
    }
    if (token < end) {
      ConvolveTokens<kNorm, false>(tile_args, tile, x, out, end - token, false, channels, ahead,
                                   scratch, turn);
    }
    token = end;
  }
}

// grid: PlanConvolutionTiles; block (kThreads)
__global__ void __launch_bounds__(kThreads, 5)
    ConvolutionTileKernel(const __grid_constant__ TileArgs tile_args) {
  BeginNextKernel();
  if (!tile_args.early) AwaitPreviousKernel();
  __shared__ Scratch scratch;
  const ShortConvolutionArgs& args = tile_args.convolution;
  const int tile_tokens = tile_args.tile_tokens;
  const int channel = (blockIdx.x * kThreads + threadIdx.x) * kRun;
  const int last_channel = static_cast<int>(args.x.cols) - kRun;
  const int64_t index = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  const int tokens = args.cu_seqlens[args.num_sequences];
  if (index * tile_tokens >= tokens) return AwaitPreviousKernel();
  const int begin = static_cast<int>(index * tile_tokens);
  const Tile tile = {begin, min(begin + tile_tokens, tokens), SequenceOf(args, begin),
                     min(channel, last_channel), channel <= last_channel};
  if (tile_args.norms && blockIdx.x * kThreads * kRun < args.normed) {
    ConvolveTile<true>(tile_args, tile, scratch);
  } else {
    ConvolveTile<false>(tile_args, tile, scratch);
  }
}

// Whether each state is read by the tile alone that holds its sequence's first token.
bool StatesHaveOneTile(const ShortConvolutionArgs& args, int tile_tokens) {
  for (int n = 0; n < args.num_sequences; ++n) {
    const int begin = args.cu_seqlens_host[n], end = args.cu_seqlens_host[n + 1];
    const int next_tile = (begin / tile_tokens + 1) * tile_tokens;
    if (next_tile < std::min(end, begin + kTaps - 1)) return false;
  }
  return true;
}

}  // namespace

ConvolutionTiles PlanConvolutionTiles(Stream& stream, const ShortConvolutionArgs& args,
                                      int64_t block_channels) {
  const int blocks = DivideUp(args.x.cols, block_channels);
  const bool few = int64_t{DivideUp(args.x.rows, kConvolutionTile)} * blocks <
                   2 * stream.cuda()->num_multiprocessors;
  const int tile_tokens = few ? kShortConvolutionTile : kConvolutionTile;
  const int tiles = DivideUp(args.x.rows, tile_tokens);
  const int grid_y = std::min(tiles, 32768);
  return {tile_tokens, dim3(blocks, grid_y, DivideUp(tiles, grid_y))};
}

bool CanTileConvolution(const ShortConvolutionArgs& args) {
  constexpr int64_t kMaxStride = int64_t{1} << 30;  // its bytes are 32 bits
  return args.x.dtype == DType::kBF16 && args.width == kTaps && args.bias == nullptr &&
         args.activation == Activation::kSilu && Vectorizable(args.x.cols, {args.x, args.out}) &&
         IsAligned(args.weight) && std::max(args.x.stride, args.out.stride) < kMaxStride;
}

bool CanTileNorm(int head_dim) {
  const int threads = head_dim / kRun;
  return head_dim % kRun == 0 && threads >= kGroup && threads <= kThreads &&
         (threads & (threads - 1)) == 0;
}

bool TileConvolution(Stream& stream, const ShortConvolutionArgs& args) {
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const ConvolutionTiles tiles = PlanConvolutionTiles(stream, args, kThreads * kRun);
  const TileArgs tile_args = {args,
                              static_cast<uint32_t>(args.x.stride * sizeof(Bf16)),
                              static_cast<uint32_t>(args.out.stride * sizeof(Bf16)),
                              tiles.tile_tokens,
                              args.normed > 0 && CanTileNorm(args.head_dim),
                              StatesHaveOneTile(args, tiles.tile_tokens),
                              stream.cuda()->chained};
  Check(LaunchChained(ConvolutionTileKernel, tiles.grid, dim3(kThreads), 0, cuda_stream,
                      stream.cuda()->can_chain, tile_args),
        "ShortConvolution, ConvolutionTileKernel");
  return tile_args.updates;
}

}  // namespace fla::cuda
