// PrepareStep and RecurrentStep of StepProgramKernel (step_program.cu): a block has 32 columns of
// the state of one head, and makes what they need of the packed projection itself: the head's q and
// k, its decay and beta, and its columns of v. Blocks of one head repeat each other in q and k;
// there is no hand-over between the two.
//
// The first half of the warps has q and k, four channels a thread; others have v, decay and beta.
#pragma once

#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/head_norm.cuh"
#include "kernels/cuda/step_program_block.cuh"
#include "kernels/cuda/step_token.cuh"

namespace fla::cuda {

constexpr int kMaxConvolution = 4;  // taps
constexpr int kMaxStateRows = 256;
constexpr int kColumnLanes = kProgramStateColumns / 4;
constexpr int kHeadThreads = kComputeThreads / 2;

struct MixerShared {
  alignas(16) float query_key[2 * kMaxStateRows];  // not yet normalised
  alignas(16) float value[kProgramStateColumns];
  float decay;  // factor
  float beta;
  float norms[kHeadThreads / 32];  // what warps have of them
  StepSums<kComputeWarps, kColumnLanes> sums;
};

// A channel of the convolution, but for its new input.
struct ConvolvedChannel {
  float taps[kMaxConvolution], old[kMaxConvolution - 1];

  __device__ __forceinline__ void Load(const PrepareStepArgs& args, int channel,
                                       const float* state) {
    const float* const of_channel = state + channel * (args.width - 1);
#pragma unroll
    for (int j = 0; j < kMaxConvolution; ++j) {
      taps[j] = j < args.width ? __ldg(args.taps + channel * args.width + j) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kMaxConvolution - 1; ++j) {
      old[j] = j < args.width - 1 ? of_channel[j] : 0.0f;
    }
  }
  __device__ __forceinline__ float With(const PrepareStepArgs& args, float current) const {
    if (args.width == 0) return current;
    float value = taps[0] * old[0] + taps[1] * old[1] + taps[2] * old[2];
#pragma unroll
    for (int j = 0; j < kMaxConvolution; ++j) {
      if (j == args.width - 1) value += taps[j] * current;
    }
    return value;
  }
};

// The state of a convolution's channel after this step.
struct MovedChannel {
  float* state = nullptr;  // null: none for this thread
  float inputs[kMaxConvolution - 1];
};
// number: of the packed projection's words.
__device__ __forceinline__ MovedChannel LoadMovedChannel(const ProgramMixer& mixer, int slot,
                                                         uint32_t number) {
  const PrepareStepArgs& args = mixer.prepare;
  MovedChannel moved;
  if (args.width < 2) return moved;
  const int q = static_cast<int>(args.q.cols), k = static_cast<int>(args.k.cols);
  const int channels = q + k + static_cast<int>(args.v.cols);
  const int channel = blockIdx.x * kComputeThreads + threadIdx.x;
  if (channel >= channels || slot < 0) return moved;
  const int old_inputs = args.width - 1;
  moved.state = args.state + slot * args.slot_stride + channel * old_inputs;
#pragma unroll
  for (int j = 0; j < kMaxConvolution - 2; ++j) {
    if (j + 1 < old_inputs) moved.inputs[j] = moved.state[j + 1];
  }
  const int word = channel < q       ? mixer.q_word + channel / 2
                   : channel < q + k ? mixer.k_word + (channel - q) / 2
                                     : mixer.v_word + (channel - q - k) / 2;
  const uint32_t pair = AwaitWord(mixer.packed + word, number);
  const float current = channel % 2 == 0 ? Low(pair) : High(pair);
#pragma unroll
  for (int j = 0; j < kMaxConvolution - 1; ++j) {
    if (j + 1 == old_inputs) moved.inputs[j] = current;
  }
  return moved;
}
__device__ __forceinline__ void StoreMovedChannel(const ProgramMixer& mixer,
                                                  const MovedChannel& moved) {
  if (moved.state == nullptr) return;
#pragma unroll
  for (int j = 0; j < kMaxConvolution - 1; ++j) {
    if (j + 1 < mixer.prepare.width) moved.state[j] = moved.inputs[j];
  }
}

__device__ __forceinline__ float HalfOf(uint32_t pair, int i) {
  return i % 2 == 0 ? Low(pair) : High(pair);
}

// The rare ones in a function, and the gate too: what a layer runs must stay in the instruction
// cache.
__device__ __noinline__ float ActivateRarely(Activation activation, float x) {
  return Activate<__nv_bfloat16>(activation, x);
}
__device__ __forceinline__ float ActivateChannel(Activation activation, float x) {
  if (activation == Activation::kIdentity) return x;
  if (activation == Activation::kSilu) return x * Sigmoid<__nv_bfloat16>(x);
  return ActivateRarely(activation, x);
}
__device__ __noinline__ float DecayOf(const LogDecayArgs& args, int head, float x) {
  return __expf(LogDecayOf(args, head, x));
}

// Rotates the head's q and k in shared memory; the threads that have them.
template <int kKeyDim>
__device__ __noinline__ void RotateHeads(const PrepareStepArgs& args, float* query_key) {
  constexpr int kHalf = kKeyDim / 2;
  for (int i = threadIdx.x; i < kKeyDim; i += kHeadThreads) {
    const int pair = i % kHalf;
    float* const low = query_key + i / kHalf * kKeyDim + pair;
    const float exponent = static_cast<float>(2 * pair) / static_cast<float>(kKeyDim);
    float sine, cosine;
    sincosf(static_cast<float>(args.positions[0]) * (1.0f / powf(args.rotary_base, exponent)),
            &sine, &cosine);
    const float a = low[0], b = low[kHalf];
    low[0] = a * cosine - b * sine;
    low[kHalf] = b * cosine + a * sine;
  }
}

// number: of the packed projection's words.
template <int kKeyDim>
__device__ __forceinline__ void RunMixerItem(const ProgramOp& op, Block& block,
                                             const MixerItem& item, uint32_t number) {
  const ProgramMixer& mixer = op.mixer;
  const PrepareStepArgs& args = mixer.prepare;
  const RecurrenceParams& p = mixer.recurrence;
  MixerShared& shared = *block.mixer;
  const int thread = threadIdx.x, warp = thread / 32;
  const int slot = block.state_slot;
  if (slot < 0) {  // a row of padding: whoever waits for it gets zeros
    if (thread < kProgramStateColumns / 2) {
      PutWord(op.to + item.out_word + thread, 0, number + 1);
    }
    return;
  }
  const uint64_t* const packed = op.from;
  if (thread < kHeadThreads) {
    constexpr int kChannels = 4;  // of a thread
    constexpr int kThreadsOfHead = kKeyDim / kChannels;
    static_assert(2 * kThreadsOfHead <= kHeadThreads && kThreadsOfHead % 16 == 0);
    const bool active = thread < 2 * kThreadsOfHead, is_key = thread >= kThreadsOfHead;
    const int first = (is_key ? thread - kThreadsOfHead : thread) * kChannels;
    float sum = 0.0f;
    if (active) {
      ConvolvedChannel channels[kChannels];
      if (args.width > 0) {
        const float* const state = args.state + slot * args.slot_stride;
        const int channel = (is_key ? item.k_channel : item.q_channel) + first;
#pragma unroll
        for (int i = 0; i < kChannels; ++i) channels[i].Load(args, channel + i, state);
      }
      uint2 words[1];
      AwaitPairs(packed + (is_key ? item.k_word : item.q_word) + first / 2, 0, 1, number, words);
      const HeadNorm norm = is_key ? args.k_norm : args.q_norm;
      float x[kChannels] = {Low(words[0].x), High(words[0].x), Low(words[0].y), High(words[0].y)};
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        x[i] = ActivateChannel(args.qk_activation, channels[i].With(args, x[i]));
        sum += HeadNormTerm(norm, x[i]);
      }
      *reinterpret_cast<float4*>(shared.query_key + kChannels * thread) =
          make_float4(x[0], x[1], x[2], x[3]);
    }
    // A head of 64 channels is half a warp.
    constexpr int kLanes = kThreadsOfHead < 32 ? kThreadsOfHead : 32;
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(~0u, sum, offset);
    }
    if (active && thread % kLanes == 0) shared.norms[thread / kLanes] = sum;
    if (args.rotary_base > 0.0f) {
      SyncThreads<kHeadThreads>(2);
      RotateHeads<kKeyDim>(args, shared.query_key);
    }
  } else {
    const int other = thread - kHeadThreads;
    if (warp == kComputeWarps / 2) {
      if (other < kProgramStateColumns / 2) {
        ConvolvedChannel low, high;
        if (args.width > 0) {
          const float* const state = args.state + slot * args.slot_stride;
          low.Load(args, item.v_channel + 2 * other, state);
          high.Load(args, item.v_channel + 2 * other + 1, state);
        }
        const uint32_t pair = AwaitWord(packed + item.v_word + other, number);
        *reinterpret_cast<float2*>(shared.value + 2 * other) =
            make_float2(ActivateChannel(args.v_activation, low.With(args, Low(pair))),
                        ActivateChannel(args.v_activation, high.With(args, High(pair))));
      }
      if (other == 31) {
        float beta = 1.0f;
        if (args.beta_out != nullptr) {
          const uint32_t pair = AwaitWord(packed + item.beta_column / 2, number);
          beta = args.beta_scale * Sigmoid<__nv_bfloat16>(HalfOf(pair, item.beta_column));
        } else if (p.beta != nullptr) {
          beta = p.beta[item.head];
        }
        shared.beta = beta;
      }
    }
    if (thread == kComputeThreads - 1) {
      float decay = 1.0f;
      if (p.decay == Decay::kPerToken) {
        const int column = mixer.decay_column + item.decay_column;
        const float bias =
            args.decay.dt_bias != nullptr ? __ldg(args.decay.dt_bias + item.decay_column) : 0.0f;
        const uint32_t pair = AwaitWord(packed + column / 2, number);
        decay = DecayOf(args.decay, item.rate_head, HalfOf(pair, column) + bias);
      } else if (p.decay == Decay::kPerHead) {
        decay = __expf(p.log_decay[item.head]);
      }
      shared.decay = decay;
    }
  }
  SyncComputeThreads();

  // The state, as LoadStepKernel has it (step_load.cuh).
  constexpr int kRows = kKeyDim / 32;  // of a thread
  constexpr int kPieceRows = kKeyDim < kProgramStateRows ? kKeyDim : kProgramStateRows;
  constexpr int kPieces = kKeyDim / kPieceRows;
  const StatePart part(p, kColumnLanes, kComputeWarps, item.slice, item.head);
  const int first_row = thread / kColumnLanes * kRows;
  float query[kRows], key[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    query[i] = shared.query_key[first_row + i];
    key[i] = shared.query_key[kKeyDim + first_row + i];
  }
  const float decay = shared.decay, beta = shared.beta;
  constexpr int kNorms = kKeyDim / 4 < 32 ? 1 : kKeyDim / 4 / 32;  // partial sums of a head
  float q_sum = 0.0f, k_sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kNorms; ++i) q_sum += shared.norms[i], k_sum += shared.norms[kNorms + i];
  const float q_factor = HeadNormFactor(args.q_norm, q_sum, args.norm_eps);
  const float k_factor = HeadNormFactor(args.k_norm, k_sum, args.norm_eps);

  RingCursor mine = block.cursor, last = block.cursor;
  if (kPieces > 1 && first_row >= kPieceRows) block.ring.Advance(mine, 1);
  if (kPieces > 1) block.ring.Advance(last, 1);
  block.ring.AwaitFull(mine);
  const auto* const tile = reinterpret_cast<const float4*>(block.ring.Slot(mine)) +
                           first_row % kPieceRows * kColumnLanes + part.column_lane;
  float4 s[kRows];
  float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
  float q_dot_k = 0.0f;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    s[i] = tile[i * kColumnLanes];
    AddScaled(from_q, query[i], s[i]);
    AddScaled(from_k, key[i], s[i]);
    q_dot_k += query[i] * key[i];
  }
  Scale(from_q, decay * q_factor), Scale(from_k, decay * k_factor);
  AddUp<true>(part, from_q, from_k, q_dot_k * q_factor * k_factor, shared.sums);
  SyncComputeThreads();
  if (thread == 0) {
    block.ring.Release(block.cursor);
    if (kPieces > 1) block.ring.Release(last);
  }
  block.ring.Advance(block.cursor, kPieces);
  const float4 value = *reinterpret_cast<const float4*>(shared.value + 4 * part.column_lane);
  float4 u = p.beta != nullptr ? UpdateOf<true>(part, shared.sums, value, beta) : value;
  if (thread < kColumnLanes) {
    float4 o = OutputOf(part, shared.sums, u);
    Scale(o, p.scale);
    uint64_t* const words = op.to + item.out_word + 2 * thread;
    PutWord(words, Pack(o.x, o.y), number + 1);
    PutWord(words + 1, Pack(o.z, o.w), number + 1);
  }
  float* const state =
      static_cast<float*>(p.state) +
      (static_cast<int64_t>(slot * p.heads + item.head) * kKeyDim + first_row) * p.value_dim +
      part.column;
  Scale(u, k_factor);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    Scale(s[i], decay);
    AddScaled(s[i], key[i], u);
    StoreState(state + i * p.value_dim, s[i]);
  }
}

template <int kKeyDim>
__device__ __forceinline__ void RunMixer(const ProgramOp& op, Block& block, uint32_t number) {
#pragma unroll 1
  for (int i = blockIdx.x; i < op.mixer.items; i += gridDim.x) {
    const bool first = i == blockIdx.x;
    if (!first) SyncComputeThreads();  // shared memory is used anew
    const MixerItem item = first ? *block.first_item : op.mixer.plan[i];
    RunMixerItem<kKeyDim>(op, block, item, number);
  }
}

// Begins to fetch what the block's item will read besides words: for the op before it.
__device__ __forceinline__ void PrefetchMixer(const ProgramMixer& mixer, const Block& block) {
  const PrepareStepArgs& args = mixer.prepare;
  if (blockIdx.x >= mixer.items || block.state_slot < 0 || args.width == 0) return;
  const MixerItem& item = *block.first_item;
  const int key_dim = args.head_k_dim, thread = threadIdx.x;
  const int channel = thread < key_dim / 4   ? item.q_channel + 4 * thread
                      : thread < key_dim / 2 ? item.k_channel + 4 * (thread - key_dim / 4)
                                             : item.v_channel + 4 * (thread - key_dim / 2);
  if (thread >= key_dim / 2 + kProgramStateColumns / 4) return;
  PrefetchToL2(args.taps + channel * args.width);
  PrefetchToL2(args.state + block.state_slot * args.slot_stride + channel * (args.width - 1));
}

}  // namespace fla::cuda
