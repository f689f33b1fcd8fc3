// PrepareStep: from the packed projection of a decode step to the inputs of the recurrence.
//
// A block has one head of q, k or v of one sequence, or kGateChannels channels of its decay, or its
// betas. What the projection does not write (taps, states of the convolution, the decay's map) is
// fetched while the projection still runs.
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/gates.cuh"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxChannels = 4;  // of a thread: heads of up to 512
constexpr int kMaxWidth = 4;
constexpr int kGateChannels = 128;
constexpr int kMaxRank = 256;

// How the blocks of a sequence are dealt out: q's heads, k's, v's, pieces of the decay, the betas.
struct PrepareBlocks {
  int q_heads, k_heads, v_heads, decay_pieces, betas;
  int total() const { return q_heads + k_heads + v_heads + decay_pieces + betas; }
};

__device__ float BlockSum(float value) {
  __shared__ float warp_sums[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kThreads / 32; ++warp) sum += warp_sums[warp];
  return sum;
}

struct HeadPart {  // what a block reads and writes
  Matrix x, out;
  int begin;          // first column of the head
  int size;           // of the head
  int first_channel;  // of the head, among those of the convolution
  Activation activation;
  HeadNorm norm;
  bool rotary;
};

__device__ void PrepareHead(const PrepareStepArgs& args, const HeadPart& part, int row, int slot) {
  __shared__ float exchanged[kThreads * kMaxChannels];
  const int old_inputs = args.width > 0 ? args.width - 1 : 0;
  float taps[kMaxChannels][kMaxWidth], old[kMaxChannels][kMaxWidth - 1];
  float* const state = args.width > 0 && slot >= 0
                           ? args.state + slot * args.slot_stride +
                                 static_cast<int64_t>(part.first_channel) * old_inputs
                           : nullptr;
  if (state != nullptr) {
#pragma unroll
    for (int i = 0; i < kMaxChannels; ++i) {
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
  float values[kMaxChannels];
  // All at once: a load behind a store of the state would wait for the one before it.
#pragma unroll
  for (int i = 0; i < kMaxChannels; ++i) {
    const int channel = threadIdx.x + i * kThreads;
    values[i] = channel < part.size ? ToFloat(x[channel]) : 0.0f;
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kMaxChannels; ++i) {
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
    sum += part.norm == HeadNorm::kL2   ? value * value
           : part.norm == HeadNorm::kL1 ? fabsf(value)
                                        : value;
  }
  if (part.norm != HeadNorm::kNone) {
    sum = BlockSum(sum);
    float factor = 1.0f;
    if (part.norm == HeadNorm::kL2) factor = rsqrtf(sum + args.norm_eps);
    if (part.norm == HeadNorm::kSum) factor = 1.0f / (sum + args.norm_eps);
    if (part.norm == HeadNorm::kL1) factor = 1.0f / (sum < args.norm_eps ? args.norm_eps : sum);
#pragma unroll
    for (int i = 0; i < kMaxChannels; ++i) values[i] *= factor;
  }
  if (part.rotary) {
#pragma unroll
    for (int i = 0; i < kMaxChannels; ++i) exchanged[threadIdx.x + i * kThreads] = values[i];
    __syncthreads();
    const int half = part.size / 2;
    const auto position = static_cast<float>(args.positions[row]);
#pragma unroll
    for (int i = 0; i < kMaxChannels; ++i) {
      const int channel = threadIdx.x + i * kThreads;
      if (channel >= part.size) break;
      const bool upper = channel >= half;
      const int pair = upper ? channel - half : channel;
      const float exponent = static_cast<float>(2 * pair) / static_cast<float>(part.size);
      float sine, cosine;
      sincosf(position * (1.0f / powf(args.rotary_base, exponent)), &sine, &cosine);
      const float other = exchanged[upper ? channel - half : channel + half];
      values[i] = values[i] * cosine + (upper ? other : -other) * sine;
    }
  }
  __nv_bfloat16* const out = RowOf<__nv_bfloat16>(part.out, row) + part.begin;
#pragma unroll
  for (int i = 0; i < kMaxChannels; ++i) {
    const int channel = threadIdx.x + i * kThreads;
    if (channel < part.size) out[channel] = FromFloat<__nv_bfloat16>(values[i]);
  }
}

__device__ void PrepareDecay(const PrepareStepArgs& args, int piece, int row, int slot) {
  __shared__ float low_rank[kMaxRank];
  const LogDecayArgs& decay = args.decay;
  const bool mapped = args.decay_map.data != nullptr;
  const int columns = static_cast<int>(mapped ? args.decay_map.rows : decay.x.cols);
  const int column = piece * kGateChannels + threadIdx.x;
  AwaitPreviousKernel();
  if (slot < 0) return;
  const __nv_bfloat16* const x = RowOf<const __nv_bfloat16>(decay.x, row);
  float value = 0.0f;
  if (mapped) {
    const int rank = static_cast<int>(decay.x.cols);
    for (int i = threadIdx.x; i < rank; i += kThreads) low_rank[i] = ToFloat(x[i]);
    __syncthreads();
    if (column >= columns) return;
    const __nv_bfloat16* const weights = RowOf<const __nv_bfloat16>(args.decay_map, column);
#pragma unroll 4
    for (int i = 0; i < rank; i += kVector) {
      float of_channel[kVector];
      Load(weights + i, of_channel);
#pragma unroll
      for (int j = 0; j < kVector; ++j) value += of_channel[j] * low_rank[i + j];
    }
    if (args.decay_bias != nullptr) value += args.decay_bias[column];
  } else {
    if (column >= columns) return;
    value = ToFloat(x[column]);
  }
  if (decay.dt_bias != nullptr) value += decay.dt_bias[column];
  decay.out[static_cast<int64_t>(row) * columns + column] =
      LogDecayOf(decay, column / (columns / decay.heads), value);
}

// grid (blocks.total(), N), block (kThreads)
__global__ void __launch_bounds__(kThreads)
    PrepareStepKernel(const PrepareStepArgs args, const PrepareBlocks blocks) {
  BeginNextKernel();
  const int row = blockIdx.y;
  const int slot = args.slots[row];
  int index = blockIdx.x;
  const int q_columns = static_cast<int>(args.q.cols);
  const int k_columns = static_cast<int>(args.k.cols);
  if (index < blocks.q_heads) {
    const int begin = index * args.head_k_dim;
    PrepareHead(args,
                {args.q, args.q_out, begin, args.head_k_dim, begin, args.qk_activation, args.q_norm,
                 args.rotary_base > 0},
                row, slot);
    return;
  }
  index -= blocks.q_heads;
  if (index < blocks.k_heads) {
    const int begin = index * args.head_k_dim;
    PrepareHead(args,
                {args.k, args.k_out, begin, args.head_k_dim, q_columns + begin, args.qk_activation,
                 args.k_norm, args.rotary_base > 0},
                row, slot);
    return;
  }
  index -= blocks.k_heads;
  if (index < blocks.v_heads) {
    const int begin = index * args.head_v_dim;
    PrepareHead(args,
                {args.v, args.v_out, begin, args.head_v_dim, q_columns + k_columns + begin,
                 args.v_activation, HeadNorm::kNone, false},
                row, slot);
    return;
  }
  index -= blocks.v_heads;
  if (index < blocks.decay_pieces) {
    PrepareDecay(args, index, row, slot);
    return;
  }
  AwaitPreviousKernel();
  if (slot < 0) return;
  const int heads = static_cast<int>(args.beta.cols);
  for (int head = threadIdx.x; head < heads; head += kThreads) {
    args.beta_out[static_cast<int64_t>(row) * heads + head] =
        args.beta_scale * Sigmoid(ToFloat(RowOf<const __nv_bfloat16>(args.beta, row)[head]));
  }
}

bool Fits(const PrepareStepArgs& args) {
  const auto is_bf16 = [](const Matrix& matrix) { return matrix.dtype == DType::kBF16; };
  if (!is_bf16(args.q) || !is_bf16(args.k) || !is_bf16(args.v)) return false;
  if (args.head_k_dim > kThreads * kMaxChannels || args.head_v_dim > kThreads * kMaxChannels) {
    return false;
  }
  if (args.width > kMaxWidth || args.q.rows > 65535) return false;
  if (args.decay.out != nullptr) {
    if (!is_bf16(args.decay.x)) return false;
    if (args.decay_map.present() &&
        (args.decay.x.cols > kMaxRank || !Vectorizable(args.decay.x.cols, {args.decay_map}))) {
      return false;
    }
  }
  return args.beta_out == nullptr || is_bf16(args.beta);
}

// Whether anything happens to the heads of x on their way to `out`.
bool Changes(const PrepareStepArgs& args, const Matrix& x, const Matrix& out, Activation activation,
             HeadNorm norm, bool rotary) {
  return args.width > 0 || x.data != out.data || activation != Activation::kIdentity ||
         norm != HeadNorm::kNone || rotary;
}

}  // namespace

bool LaunchPrepareStep(const PrepareStepArgs& args, cudaStream_t stream, bool chained) {
  if (!Fits(args)) return false;
  PrepareBlocks blocks = {};
  const bool rotary = args.rotary_base > 0;
  if (Changes(args, args.q, args.q_out, args.qk_activation, args.q_norm, rotary)) {
    blocks.q_heads = static_cast<int>(args.q.cols / args.head_k_dim);
  }
  if (Changes(args, args.k, args.k_out, args.qk_activation, args.k_norm, rotary)) {
    blocks.k_heads = static_cast<int>(args.k.cols / args.head_k_dim);
  }
  if (Changes(args, args.v, args.v_out, args.v_activation, HeadNorm::kNone, false)) {
    blocks.v_heads = static_cast<int>(args.v.cols / args.head_v_dim);
  }
  if (args.decay.out != nullptr) {
    const int64_t columns = args.decay_map.present() ? args.decay_map.rows : args.decay.x.cols;
    blocks.decay_pieces = static_cast<int>((columns + kGateChannels - 1) / kGateChannels);
  }
  blocks.betas = args.beta_out != nullptr ? 1 : 0;
  if (args.q.rows == 0 || blocks.total() == 0) return true;
  const dim3 grid(blocks.total(), static_cast<unsigned>(args.q.rows));
  Check(LaunchChained(PrepareStepKernel, grid, dim3(kThreads), 0, stream, chained, args, blocks),
        "PrepareStep");
  return true;
}

}  // namespace fla::cuda
