// PrepareStep: from the packed projection of a decode step to the inputs of the recurrence.
//
// A block has one head of q or k of one sequence, a piece of v, of its decay or of its output gate,
// or its betas. What the projection does not write (taps, states of the convolution, low-rank maps)
// is fetched while the projection still runs.
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/head_norm.cuh"
#include "kernels/cuda/rotary.cuh"
#include "kernels/cuda/warp_sum.cuh"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxChannels = 4;  // of a thread: heads of q and k of up to 512
constexpr int kMaxWidth = 4;
constexpr int kMaxRank = 256;
constexpr int kMapLanes = 4;                        // that share a channel of a low-rank map
constexpr int kMapChannels = kThreads / kMapLanes;  // of a block
constexpr int kMapPieces = kMaxRank / (kMapLanes * kVector);  // of a lane
static_assert(kMapPieces * kMapLanes * kVector == kMaxRank && 32 % kMapLanes == 0);

// How the blocks of a sequence are dealt out: q's heads, k's, pieces of v, of the decay and of the
// output gate, the betas.
struct PrepareBlocks {
  int q_heads, k_heads, v_pieces, decay_pieces, gate_pieces, betas;
  int total() const { return q_heads + k_heads + v_pieces + decay_pieces + gate_pieces + betas; }
};

struct HeadPart {  // what a block reads and writes
  Matrix x, out;
  int begin;          // first column
  int size;           // of the head; of v, of the piece
  int first_channel;  // among those of the convolution
  Activation activation;
  HeadNorm norm;
  bool rotary;
};

// kChannels of a thread.
template <int kChannels>
__device__ void PrepareHead(const PrepareStepArgs& args, const HeadPart& part, int row, int slot) {
  __shared__ float exchanged[kThreads * kChannels];
  const int old_inputs = args.width > 0 ? args.width - 1 : 0;
  float taps[kChannels][kMaxWidth], old[kChannels][kMaxWidth - 1];
  float* const state = args.width > 0 && slot >= 0
                           ? args.state + slot * args.slot_stride +
                                 static_cast<int64_t>(part.first_channel) * old_inputs
                           : nullptr;
  if (state != nullptr) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int channel = threadIdx.x + i * kThreads;
      if (channel >= part.size) break;
#pragma unroll
      for (int j = 0; j < kMaxWidth; ++j) {
        if (j < args.width) {
          taps[i][j] = args.taps[(part.first_channel + channel) * args.width + j];
        }
        if (j < old_inputs) old[i][j] = state[channel * old_inputs + j];
      }
    }
  }
  AwaitPreviousKernel();
  if (slot < 0) return;

  const __nv_bfloat16* const x = RowOf<const __nv_bfloat16>(part.x, row) + part.begin;
  float values[kChannels];
  // All at once: a load behind a store of the state would wait for the one before it.
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = threadIdx.x + i * kThreads;
    values[i] = channel < part.size ? ToFloat(x[channel]) : 0.0f;
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = threadIdx.x + i * kThreads;
    if (channel >= part.size) break;
    float value = values[i];
    if (state != nullptr) {
      const float current = value;
      value = 0.0f;
#pragma unroll
      for (int j = 0; j < kMaxWidth; ++j) {
        if (j < old_inputs) value += taps[i][j] * old[i][j];
        if (j == old_inputs) value += taps[i][j] * current;
      }
#pragma unroll
      for (int j = 0; j < kMaxWidth - 1; ++j) {
        if (j >= old_inputs) continue;
        float next = current;
#pragma unroll
        for (int after = 1; after < kMaxWidth - 1; ++after) {
          if (after == j + 1 && after < old_inputs) next = old[i][after];
        }
        state[channel * old_inputs + j] = next;
      }
    }
    value = Activate<__nv_bfloat16>(part.activation, value);
    values[i] = value;
    sum += HeadNormTerm(part.norm, value);
  }
  if (part.norm != HeadNorm::kNone) {
    const float factor = HeadNormFactor(part.norm, BlockSum<kThreads / 32>(sum), args.norm_eps);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) values[i] *= factor;
  }
  if (part.rotary) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) exchanged[threadIdx.x + i * kThreads] = values[i];
    __syncthreads();
    const int half = part.size / 2;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int channel = threadIdx.x + i * kThreads;
      if (channel >= part.size) break;
      const bool upper = channel >= half;
      const int pair = upper ? channel - half : channel;
      float low = exchanged[pair], high = exchanged[pair + half];
      RotationOf(pair, part.size, args.rotary_base, args.positions[row]).Turn(low, high);
      values[i] = upper ? high : low;
    }
  }
  __nv_bfloat16* const out = RowOf<__nv_bfloat16>(part.out, row) + part.begin;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int channel = threadIdx.x + i * kThreads;
    if (channel < part.size) out[channel] = FromFloat<__nv_bfloat16>(values[i]);
  }
}

// What lanes of a block of PrepareDecay and PrepareGate have: a channel, alone or, of a low-rank
// map, with the other kMapLanes - 1 next to it.
__device__ __forceinline__ int ChannelOf(int piece, bool mapped) {
  return mapped ? piece * kMapChannels + static_cast<int>(threadIdx.x) / kMapLanes
                : piece * kThreads + static_cast<int>(threadIdx.x);
}

// x [rank] through the map's row of `channel`; the same in the channel's kMapLanes lanes. Waits for
// the kernel before, behind the reading of the weights.
__device__ float MapChannel(const Matrix& x, const LowRankMap& map, int channel, int row) {
  const int pieces = static_cast<int>(x.cols) / kVector, lane = threadIdx.x % kMapLanes;
  const __nv_bfloat16* const weights = RowOf<const __nv_bfloat16>(map.weight, channel);
  uint4 raw[kMapPieces];
#pragma unroll
  for (int i = 0; i < kMapPieces; ++i) {
    const int piece = i * kMapLanes + lane;
    if (piece < pieces) raw[i] = LoadOnce(weights + piece * kVector);
  }
  float value = map.bias != nullptr && lane == 0 ? map.bias[channel] : 0.0f;
  AwaitPreviousKernel();
  const __nv_bfloat16* const from = RowOf<const __nv_bfloat16>(x, row);
#pragma unroll
  for (int i = 0; i < kMapPieces; ++i) {
    const int piece = i * kMapLanes + lane;
    if (piece >= pieces) break;
    float of_channel[kVector], of_row[kVector];
    Load(reinterpret_cast<const __nv_bfloat16*>(&raw[i]), of_channel);
    Load(from + piece * kVector, of_row);
#pragma unroll
    for (int j = 0; j < kVector; ++j) value += of_channel[j] * of_row[j];
  }
  return WarpSum<kMapLanes>(value);
}

template <bool kMaps>
__device__ void PrepareDecay(const PrepareStepArgs& args, int piece, int row, int slot) {
  const LogDecayArgs& decay = args.decay;
  const bool mapped = kMaps && args.decay_map.weight.data != nullptr;
  const int columns = static_cast<int>(mapped ? args.decay_map.weight.rows : decay.x.cols);
  const int column = ChannelOf(piece, mapped), readable = min(column, columns - 1);
  const int head = readable / (columns / decay.heads);
  const float bias = decay.dt_bias != nullptr ? decay.dt_bias[readable] : 0.0f;
  if (decay.a_log != nullptr) PrefetchToL2(decay.a_log + head);
  float value = 0.0f;
  if constexpr (kMaps) {
    if (mapped) value = MapChannel(decay.x, args.decay_map, readable, row);
  }
  if (!mapped) {
    AwaitPreviousKernel();
    value = ToFloat(RowOf<const __nv_bfloat16>(decay.x, row)[readable]);
  }
  if (slot < 0 || column >= columns) return;
  if (mapped && threadIdx.x % kMapLanes != 0) return;
  decay.out[static_cast<int64_t>(row) * columns + column] = LogDecayOf(decay, head, value + bias);
}

__device__ void PrepareGate(const PrepareStepArgs& args, int piece, int row, int slot) {
  const int columns = static_cast<int>(args.gate_out.cols);
  const int column = ChannelOf(piece, /*mapped=*/true);
  const float value = MapChannel(args.gate_x, args.gate_map, min(column, columns - 1), row);
  if (slot < 0 || column >= columns || threadIdx.x % kMapLanes != 0) return;
  RowOf<__nv_bfloat16>(args.gate_out, row)[column] = FromFloat<__nv_bfloat16>(value);
}

// kMaps: a decay or an output gate goes through a low-rank map, whose row takes registers.
// grid (blocks.total(), N), block (kThreads)
template <int kChannels, bool kMaps>
__global__ void __launch_bounds__(kThreads)
    PrepareStepKernel(const PrepareStepArgs args, const PrepareBlocks blocks) {
  BeginNextKernel();
  const int row = blockIdx.y;
  const int slot = args.slots[row];
  int index = blockIdx.x;
  const int q_columns = static_cast<int>(args.q.cols);
  const int k_columns = static_cast<int>(args.k.cols);
  const int heads = blocks.q_heads + blocks.k_heads;
  if (index < heads + blocks.v_pieces) {
    // One call, so that all these blocks fetch the same code.
    const bool rotary = args.rotary_base > 0;
    const int piece = kThreads * kChannels;
    HeadPart part;
    if (index < blocks.q_heads) {
      const int begin = index * args.head_k_dim;
      part = {args.q, args.q_out,         begin,       args.head_k_dim,
              begin,  args.qk_activation, args.q_norm, rotary};
    } else if (index < heads) {
      const int begin = (index - blocks.q_heads) * args.head_k_dim;
      part = {
          args.k,      args.k_out, begin, args.head_k_dim, q_columns + begin, args.qk_activation,
          args.k_norm, rotary};
    } else {
      const int begin = (index - heads) * piece;
      const int size = min(piece, static_cast<int>(args.v.cols) - begin);
      part = {args.v,
              args.v_out,
              begin,
              size,
              q_columns + k_columns + begin,
              args.v_activation,
              HeadNorm::kNone,
              false};
    }
    PrepareHead<kChannels>(args, part, row, slot);
    return;
  }
  index -= heads + blocks.v_pieces;
  if (index < blocks.decay_pieces) {
    PrepareDecay<kMaps>(args, index, row, slot);
    return;
  }
  index -= blocks.decay_pieces;
  if constexpr (kMaps) {
    if (index < blocks.gate_pieces) return PrepareGate(args, index, row, slot);
  }
  AwaitPreviousKernel();
  if (slot < 0) return;
  const int columns = static_cast<int>(args.beta.cols);
  for (int head = threadIdx.x; head < columns; head += kThreads) {
    args.beta_out[static_cast<int64_t>(row) * columns + head] =
        args.beta_scale * Sigmoid(ToFloat(RowOf<const __nv_bfloat16>(args.beta, row)[head]));
  }
}

bool FitsMap(const Matrix& x, const LowRankMap& map) {
  return map.weight.dtype == DType::kBF16 && x.cols <= kMaxRank &&
         Vectorizable(x.cols, {x, map.weight});
}

// Whether anything happens to the heads of x on their way to `out`.
bool Changes(const PrepareStepArgs& args, const Matrix& x, const Matrix& out, Activation activation,
             HeadNorm norm, bool rotary) {
  return args.width > 0 || x.data != out.data || activation != Activation::kIdentity ||
         norm != HeadNorm::kNone || rotary;
}

}  // namespace

bool HasPrepareStep(const PrepareStepArgs& args) {
  const auto is_bf16 = [](const Matrix& matrix) { return matrix.dtype == DType::kBF16; };
  if (!is_bf16(args.q) || !is_bf16(args.k) || !is_bf16(args.v)) return false;
  if (args.head_k_dim > kThreads * kMaxChannels) return false;
  if (args.width > kMaxWidth || args.q.rows > 65535) return false;
  if (args.decay.out != nullptr) {
    if (!is_bf16(args.decay.x)) return false;
    if (args.decay_map.weight.present() && !FitsMap(args.decay.x, args.decay_map)) return false;
  }
  if (args.gate_out.present() &&
      (!is_bf16(args.gate_x) || !is_bf16(args.gate_out) || !FitsMap(args.gate_x, args.gate_map))) {
    return false;
  }
  return args.beta_out == nullptr || is_bf16(args.beta);
}

bool LaunchPrepareStep(const PrepareStepArgs& args, cudaStream_t stream, bool chained) {
  if (!HasPrepareStep(args)) return false;
  // Two channels a thread and no maps take half the registers: twice as many blocks stand beside
  // the end of the projection, and what they fetch has come when it ends.
  const int channels = args.head_k_dim <= 2 * kThreads ? 2 : kMaxChannels;
  PrepareBlocks blocks = {};
  const bool rotary = args.rotary_base > 0;
  if (Changes(args, args.q, args.q_out, args.qk_activation, args.q_norm, rotary)) {
    blocks.q_heads = static_cast<int>(args.q.cols / args.head_k_dim);
  }
  if (Changes(args, args.k, args.k_out, args.qk_activation, args.k_norm, rotary)) {
    blocks.k_heads = static_cast<int>(args.k.cols / args.head_k_dim);
  }
  if (Changes(args, args.v, args.v_out, args.v_activation, HeadNorm::kNone, false)) {
    blocks.v_pieces = DivideUp(args.v.cols, kThreads * channels);
  }
  if (args.decay.out != nullptr) {
    const bool mapped = args.decay_map.weight.present();
    blocks.decay_pieces = mapped ? DivideUp(args.decay_map.weight.rows, kMapChannels)
                                 : DivideUp(args.decay.x.cols, kThreads);
  }
  if (args.gate_out.present()) blocks.gate_pieces = DivideUp(args.gate_out.cols, kMapChannels);
  blocks.betas = args.beta_out != nullptr ? 1 : 0;
  if (args.q.rows == 0 || blocks.total() == 0) return true;
  const dim3 grid(blocks.total(), static_cast<unsigned>(args.q.rows));
  const bool maps = args.decay_map.weight.present() || blocks.gate_pieces > 0;
  const auto kernel = channels == 2
                          ? maps ? PrepareStepKernel<2, true> : PrepareStepKernel<2, false>
                      : maps ? PrepareStepKernel<kMaxChannels, true>
                             : PrepareStepKernel<kMaxChannels, false>;
  Check(LaunchChained(kernel, grid, dim3(kThreads), 0, stream, chained, args, blocks),
        "PrepareStep");
  return true;
}

}  // namespace fla::cuda
