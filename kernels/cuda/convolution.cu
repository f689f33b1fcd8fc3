// The causal depthwise convolution in front of q, k and v, with its state.
//
// Short sequences (decode) take one kernel in which a thread owns its channels of a whole sequence:
// it reads the state, convolves, and writes the state. Batches with a sequence over kStepTokens
// take two: the convolution, cut into tiles of tokens, which only reads the state; then the update
// of the states. The convolution of tiles goes on to the norm of queries and keys: the threads of a
// head add up squares of kAheadOf tokens at a time.
#include <algorithm>

#include "kernels/cuda/context.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxWidth = 8;
constexpr int kStepTokens = 8;   // longest sequence of the one-kernel form
constexpr int kTileTokens = 32;  // of a thread in the two-kernel form,
constexpr int kShortTile = 8;    // or so many where that leaves multiprocessors without work
// Of those, on their way while as many are computed.
template <typename T>
constexpr int kAheadOf = 16 / sizeof(T);

// `kCount` neighbouring floats; 16 bytes at a time where kCount is a multiple of 4, and then
// aligned.
template <int kCount>
__device__ void LoadRun(const float* source, float (&values)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(source + i);
      values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = source[i];
  }
}
template <int kCount>
__device__ void StoreRun(float* target, const float (&values)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      *reinterpret_cast<float4*>(target + i) = {values[i], values[i + 1], values[i + 2],
                                                values[i + 3]};
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) target[i] = values[i];
  }
}

// N neighbouring channels of a token as they lie in memory.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Piece {
  T elements[N];
};

// The taps and the last W - 1 inputs of N channels. kWidth is W where it is known at compile time,
// else 0; loops run to kSize and skip what is past W.
template <int kWidth, int N>
struct Window {
  static constexpr int kSize = kWidth > 0 ? kWidth : kMaxWidth;
  float taps[kSize][N];
  float inputs[kSize][N];  // oldest first; entry W - 1 is the current input
  float bias[N];

  __device__ void LoadTaps(const ShortConvolutionArgs& args, int channel) {
#pragma unroll
    for (int i = 0; i < N; ++i) bias[i] = args.bias != nullptr ? args.bias[channel + i] : 0.0f;
    if constexpr (kWidth > 0) {
      float run[N * kWidth];
      LoadRun(args.weight + channel * kWidth, run);
#pragma unroll
      for (int i = 0; i < N * kWidth; ++i) taps[i % kWidth][i / kWidth] = run[i];
    } else {
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          taps[j][i] = j < args.width ? args.weight[(channel + i) * args.width + j] : 0.0f;
        }
      }
    }
  }

  // The W - 1 oldest entries of `inputs` from and to the state of the N channels.
  __device__ void LoadState(const ShortConvolutionArgs& args, const float* state) {
    if constexpr (kWidth > 0) {
      float run[N * (kWidth - 1)];
      LoadRun(state, run);
#pragma unroll
      for (int i = 0; i < N * (kWidth - 1); ++i)
        inputs[i % (kWidth - 1)][i / (kWidth - 1)] = run[i];
    } else {
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          if (j < args.width - 1) inputs[j][i] = state[i * (args.width - 1) + j];
        }
      }
    }
  }
  __device__ void StoreState(const ShortConvolutionArgs& args, float* state) const {
    if constexpr (kWidth > 0) {
      float run[N * (kWidth - 1)];
#pragma unroll
      for (int i = 0; i < N * (kWidth - 1); ++i)
        run[i] = inputs[i % (kWidth - 1)][i / (kWidth - 1)];
      StoreRun(state, run);
    } else {
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          if (j < args.width - 1) state[i * (args.width - 1) + j] = inputs[j][i];
        }
      }
    }
  }

  // One step: takes the current input in entry W - 1, gives the output, ages the inputs. T: the
  // activations' type.
  template <typename T>
  __device__ void Step(const ShortConvolutionArgs& args, float (&output)[N]) {
    const int width = kWidth > 0 ? kWidth : args.width;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      float sum = bias[i];
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        if (j < width) sum += taps[j][i] * inputs[j][i];
      }
      output[i] = sum;
#pragma unroll
      for (int j = 0; j + 1 < kSize; ++j) {
        if (j + 1 < width) inputs[j][i] = inputs[j + 1][i];
      }
    }
    // One choice for all channels.
    if (args.activation == Activation::kSilu) {
#pragma unroll
      for (int i = 0; i < N; ++i) output[i] *= Sigmoid<T>(output[i]);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) output[i] = Activate<T>(args.activation, output[i]);
    }
  }

  __device__ void SetCurrent(const ShortConvolutionArgs& args, const float (&values)[N]) {
    const int width = kWidth > 0 ? kWidth : args.width;
#pragma unroll
    for (int j = 0; j < kSize; ++j) {
      if (j == width - 1) {
#pragma unroll
        for (int i = 0; i < N; ++i) inputs[j][i] = values[i];
      }
    }
  }
};

// Input number `age` before `token` (age 1 is the one before) of the sequence that begins at
// `begin`: from x, or from the state where it lies before the sequence.
template <typename T, int N>
__device__ void LoadInput(const ShortConvolutionArgs& args, const float* state, int begin,
                          int token, int channel, float (&values)[N]) {
  if (token >= begin) {
    Load(RowOf<const T>(args.x, token) + channel, values);
    return;
  }
  const int width = args.width;
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = state[i * (width - 1) + width - 1 + token - begin];
}

// The W - 1 inputs before `token` to the window's oldest entries.
template <typename T, int kWidth, int N>
__device__ void LoadInputsBefore(const ShortConvolutionArgs& args, const float* state, int begin,
                                 int token, int channel, Window<kWidth, N>& window) {
  const int kept = (kWidth > 0 ? kWidth : args.width) - 1;
#pragma unroll
  for (int j = 0; j < Window<kWidth, N>::kSize; ++j) {
    if (j < kept) {
      LoadInput<T, N>(args, state, begin, token - kept + j, channel, window.inputs[j]);
    }
  }
}

__device__ float* StateOf(const ShortConvolutionArgs& args, int sequence, int channel) {
  return args.state + args.slots[sequence] * args.slot_stride +
         static_cast<int64_t>(channel) * (args.width - 1);
}

// Sequences of at most kStepTokens tokens. Nothing happens to one whose slot is -1.
// grid (ceil(C / N / block), sequences), block (kThreads)
template <typename T, int N, int kWidth>
__global__ void __launch_bounds__(kThreads) StepKernel(ShortConvolutionArgs args) {
  const int channel = (blockIdx.x * kThreads + threadIdx.x) * N;
  if (channel >= args.x.cols) return;
  const int sequence = blockIdx.y;
  const int begin = args.cu_seqlens[sequence], end = args.cu_seqlens[sequence + 1];
  if (begin == end || args.slots[sequence] < 0) return;
  float* state = StateOf(args, sequence, channel);
  Window<kWidth, N> window;
  window.LoadTaps(args, channel);
  window.LoadState(args, state);
  for (int token = begin; token < end; ++token) {
    float values[N];
    Load(RowOf<const T>(args.x, token) + channel, values);
    window.SetCurrent(args, values);
    window.template Step<T>(args, values);
    Store(RowOf<T>(args.out, token) + channel, values);
  }
  window.StoreState(args, state);
}

// Whether TileKernel norms: a head's threads are 2, 4, ... or all neighbours of a block.
bool CanNorm(const ShortConvolutionArgs& args, int of_thread) {
  const int threads = args.head_dim / of_thread;
  return args.head_dim % of_thread == 0 && threads >= 2 && threads <= kThreads &&
         (threads & (threads - 1)) == 0;
}

// Adds `sums` up over the `threads` neighbours that share a head. All of the block call it, with
// other `scratch` than in the call before.
template <int kSums>
__device__ __forceinline__ void SumOverHead(int threads, float (&scratch)[kThreads / 32][kSums],
                                            float (&sums)[kSums]) {
  for (int distance = min(threads, 32) / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] += __shfl_xor_sync(~0u, sums[i], distance);
  }
  if (threads <= 32) return;
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) scratch[warp][i] = sums[i];
  }
  __syncthreads();
  for (int other = 1; other < threads / 32; ++other) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] += scratch[warp ^ other][i];
  }
}

// The convolution of `tile_tokens` tokens of the packed batch, across the sequences they belong to.
// kNorm: with the norm, of what it would read if it were a kernel of its own.
// grid (ceil(C / N / block), ceil(T / tile_tokens) mod 2^16, the rest), block (kThreads)
template <typename T, int N, int kWidth, bool kNorm>
__global__ void __launch_bounds__(kThreads, kNorm ? 4 : 5)
    TileKernel(ShortConvolutionArgs args, int tile_tokens) {
  const int own_channel = (blockIdx.x * kThreads + threadIdx.x) * N;
  // Without a channel a thread does what the last one's does, for the sums of all to be complete.
  const bool has_channel = own_channel < args.x.cols;
  const int channel = has_channel ? own_channel : static_cast<int>(args.x.cols) - N;
  const int64_t tile = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  const int tokens = args.cu_seqlens[args.num_sequences];
  if ((!kNorm && !has_channel) || tile * tile_tokens >= tokens) return;
  const int tile_begin = static_cast<int>(tile * tile_tokens);
  const int tile_end = min(tile_begin + tile_tokens, tokens);

  // The last sequence that begins at or before tile_begin is the one that holds it: empty ones
  // that begin there come before it.
  int sequence = 0;
  for (int after = args.num_sequences; after - sequence > 1;) {
    const int middle = (sequence + after) / 2;
    (args.cu_seqlens[middle] <= tile_begin ? sequence : after) = middle;
  }

  constexpr int kAhead = kAheadOf<T>;
  __shared__ float scratch[2][kThreads / 32][kAhead];
  int turn = 0;
  const bool block_norms = kNorm && blockIdx.x * kThreads * N < args.normed;
  Window<kWidth, N> window;
  window.LoadTaps(args, channel);
  for (int token = tile_begin; token < tile_end;) {
    const int begin = args.cu_seqlens[sequence];
    const int end = min(args.cu_seqlens[sequence + 1], tile_end);
    if (token < end) {
      LoadInputsBefore<T>(args, StateOf(args, sequence, channel), begin, token, channel, window);
    }
    Piece<T, N> ahead[kAhead];
    const auto load_ahead = [&](int from) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (from + i < end) {
          ahead[i] =
              *reinterpret_cast<const Piece<T, N>*>(RowOf<const T>(args.x, from + i) + channel);
        }
      }
    };
    load_ahead(token);
    for (; token < end; token += kAhead) {
      Piece<T, N> pieces[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) pieces[i] = ahead[i];
      load_ahead(token + kAhead);
      float sums[kAhead] = {};
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (token + i >= end) break;
        float values[N];
        Load(pieces[i].elements, values);
        window.SetCurrent(args, values);
        window.template Step<T>(args, values);
        if (!block_norms) {
          if (has_channel) Store(RowOf<T>(args.out, token + i) + channel, values);
          continue;
        }
        Store(pieces[i].elements, values);
        Load(pieces[i].elements, values);
#pragma unroll
        for (int j = 0; j < N; ++j) sums[i] += values[j] * values[j];
      }
      if (!block_norms) continue;
      SumOverHead(args.head_dim / N, scratch[turn++ % 2], sums);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (token + i >= end || !has_channel) break;
        const float factor = channel < args.normed ? rsqrtf(sums[i] + args.norm_eps) : 1.0f;
        float values[N];
        Load(pieces[i].elements, values);
#pragma unroll
        for (int j = 0; j < N; ++j) values[j] *= factor;
        Store(RowOf<T>(args.out, token + i) + channel, values);
      }
    }
    token = end;
    ++sequence;
  }
}

// The last W - 1 inputs of every sequence become its state.
// grid (ceil(C / N / block), sequences), block (kThreads)
template <typename T, int N, int kWidth>
__global__ void __launch_bounds__(kThreads) UpdateStateKernel(ShortConvolutionArgs args) {
  const int channel = (blockIdx.x * kThreads + threadIdx.x) * N;
  if (channel >= args.x.cols) return;
  const int sequence = blockIdx.y;
  const int begin = args.cu_seqlens[sequence], end = args.cu_seqlens[sequence + 1];
  if (begin == end) return;
  float* state = StateOf(args, sequence, channel);
  // All are read before any is written: of a short sequence some come from the state itself.
  Window<kWidth, N> window;
  LoadInputsBefore<T>(args, state, begin, end, channel, window);
  window.StoreState(args, state);
}

// Of threads that have `of_thread` channels each.
unsigned BlocksOf(int64_t channels, int of_thread) {
  const int64_t of_block = int64_t{kThreads} * of_thread;
  return static_cast<unsigned>((channels + of_block - 1) / of_block);
}

// Whether the norm has been done, too.
template <typename T, int N, int kWidth>
bool Launch(Stream& stream, const ShortConvolutionArgs& args, int longest) {
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const dim3 sequence_grid(BlocksOf(args.x.cols, N), static_cast<unsigned>(args.num_sequences));
  if (longest <= kStepTokens) {
    StepKernel<T, N, kWidth><<<sequence_grid, kThreads, 0, cuda_stream>>>(args);
    CheckLaunch("ShortConvolution, StepKernel");
    return false;
  }
  // Half as many channels a thread leave room for twice the warps.
  constexpr int kTileChannels = N == 1 ? 1 : N / 2;
  const auto tiles_of = [&](int tokens) { return (args.x.rows + tokens - 1) / tokens; };
  const unsigned channel_blocks = BlocksOf(args.x.cols, kTileChannels);
  const bool few = tiles_of(kTileTokens) * channel_blocks < 2 * stream.cuda()->num_multiprocessors;
  const int tile_tokens = few ? kShortTile : kTileTokens;
  const int64_t tiles = tiles_of(tile_tokens);
  const auto grid_y = static_cast<unsigned>(std::min<int64_t>(tiles, 32768));
  const dim3 tile_grid(channel_blocks, grid_y,
                       static_cast<unsigned>((tiles + grid_y - 1) / grid_y));
  constexpr bool kCanNorm = sizeof(T) == 2 && kTileChannels > 1;
  const bool norms = kCanNorm && args.normed > 0 && CanNorm(args, kTileChannels);
  const auto kernel = norms ? TileKernel<T, kTileChannels, kWidth, kCanNorm>
                            : TileKernel<T, kTileChannels, kWidth, false>;
  kernel<<<tile_grid, kThreads, 0, cuda_stream>>>(args, tile_tokens);
  CheckLaunch("ShortConvolution, TileKernel");
  UpdateStateKernel<T, N, kWidth><<<sequence_grid, kThreads, 0, cuda_stream>>>(args);
  CheckLaunch("ShortConvolution, UpdateStateKernel");
  return norms;
}

}  // namespace

void ShortConvolution(Stream& stream, const ShortConvolutionArgs& args) {
  if (args.x.rows == 0 || args.num_sequences == 0) return;
  int longest = 0;
  for (int n = 0; n < args.num_sequences; ++n) {
    longest = std::max(longest, args.cu_seqlens_host[n + 1] - args.cu_seqlens_host[n]);
  }
  // Eight channels of four taps fit in registers; other widths go one channel a thread.
  const bool vectorizable = args.width == 4 && Vectorizable(args.x.cols, {args.x, args.out}) &&
                            IsAligned(args.weight) && IsAligned(args.state) &&
                            args.slot_stride % 4 == 0;
  DispatchElements(args.x.dtype, vectorizable, [&]<typename T, int N>() {
    if (Launch < T, N, N == 1 ? 0 : 4 > (stream, args, longest) || args.normed == 0) return;
    const Matrix heads = args.out.Columns(0, args.normed);
    const ActivateHeadsArgs norm = {heads,         args.head_dim, Activation::kIdentity,
                                    HeadNorm::kL2, args.norm_eps, heads};
    cuda::ActivateHeads(stream, norm);
  });
}

}  // namespace fla::cuda
