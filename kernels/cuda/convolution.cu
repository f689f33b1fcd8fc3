// The causal depthwise convolution in front of q, k and v, with its state.
//
// Short sequences (decode) take one kernel in which a thread owns its channels of a whole sequence:
// it reads the state, convolves, and writes the state. Batches with a sequence over kStepTokens
// take two: the convolution, cut into tiles of tokens, which only reads the state; then the update
// of the states. What a trained layer's tiles want has a kernel of its own, convolution_tile.cu,
// which goes on to the norm of queries and keys, and updates states that one tile alone reads.
#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/convolution_tile.cuh"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxWidth = 8;
constexpr int kStepTokens = 8;  // longest sequence of the one-kernel form

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
      Load(args.weight + channel * kWidth, run);
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
      Load(state, run);
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
      Store(state, run);
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
    ActivateAll<T>(args.activation, output);
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

// The convolution of `tile_tokens` tokens of the packed batch, across the sequences they belong to.
// grid (ceil(C / N / block), ceil(T / tile_tokens) mod 2^16, the rest), block (kThreads)
template <typename T, int N, int kWidth>
__global__ void __launch_bounds__(kThreads) TileKernel(ShortConvolutionArgs args, int tile_tokens) {
  const int channel = (blockIdx.x * kThreads + threadIdx.x) * N;
  const int64_t tile = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  const int tokens = args.cu_seqlens[args.num_sequences];
  if (channel >= args.x.cols || tile * tile_tokens >= tokens) return;
  const int tile_begin = static_cast<int>(tile * tile_tokens);
  const int tile_end = min(tile_begin + tile_tokens, tokens);
  Window<kWidth, N> window;
  window.LoadTaps(args, channel);
  int sequence = SequenceOf(args, tile_begin);
  for (int token = tile_begin; token < tile_end; ++sequence) {
    const int begin = args.cu_seqlens[sequence];
    const int end = min(args.cu_seqlens[sequence + 1], tile_end);
    if (token < end) {
      LoadInputsBefore<T>(args, StateOf(args, sequence, channel), begin, token, channel, window);
    }
    for (; token < end; ++token) {
      float values[N];
      Load(RowOf<const T>(args.x, token) + channel, values);
      window.SetCurrent(args, values);
      window.template Step<T>(args, values);
      Store(RowOf<T>(args.out, token) + channel, values);
    }
  }
}

// The last W - 1 inputs of every sequence become its state.
// grid (ceil(C / N / block), sequences), block (kThreads)
template <typename T, int N, int kWidth>
__global__ void __launch_bounds__(kThreads) UpdateStateKernel(ShortConvolutionArgs args) {
  BeginNextKernel();
  AwaitPreviousKernel();
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

// Whether the norm has been done, too.
template <typename T, int N, int kWidth>
bool Launch(Stream& stream, const ShortConvolutionArgs& args, int longest) {
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const dim3 sequence_grid(DivideUp(args.x.cols, kThreads * N),
                           static_cast<unsigned>(args.num_sequences));
  if (longest <= kStepTokens) {
    StepKernel<T, N, kWidth><<<sequence_grid, kThreads, 0, cuda_stream>>>(args);
    CheckLaunch("ShortConvolution, StepKernel");
    return false;
  }
  const bool tiled = CanTileConvolution(args);
  bool updated = false;
  if (tiled) {
    updated = TileConvolution(stream, args);
  } else {
    const ConvolutionTiles tiles = PlanConvolutionTiles(stream, args, kThreads * N);
    TileKernel<T, N, kWidth><<<tiles.grid, kThreads, 0, cuda_stream>>>(args, tiles.tile_tokens);
    CheckLaunch("ShortConvolution, TileKernel");
  }
  if (!updated) {
    Check(LaunchChained(UpdateStateKernel<T, N, kWidth>, sequence_grid, kThreads, 0, cuda_stream,
                        stream.cuda()->can_chain, args),
          "ShortConvolution, UpdateStateKernel");
  }
  return tiled && CanTileNorm(args.head_dim);
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
    constexpr int kWidth = N == 1 ? 0 : 4;
    if (Launch<T, N, kWidth>(stream, args, longest) || args.normed == 0) return;
    const Matrix heads = args.out.Columns(0, args.normed);
    const ActivateHeadsArgs norm = {heads,         args.head_dim, Activation::kIdentity,
                                    HeadNorm::kL2, args.norm_eps, heads};
    cuda::ActivateHeads(stream, norm);
  });
}

}  // namespace fla::cuda
