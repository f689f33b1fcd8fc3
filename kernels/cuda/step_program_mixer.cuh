// PrepareStep and RecurrentStep of StepProgramKernel (step_program.cu): a block has 32 columns of
// the state of one head, and makes what they need of the packed projection itself: the head's q and
// k, its decay and beta, and its columns of v. Blocks of one head repeat each other in q and k;
// there is no hand-over between the two. It also does the part of OutputNorm that a block can: the
// outputs leave it multiplied by their gates and the norm's weights, their squares added up.
//
// Four channels a thread: first q's, k's, v's, all by the same code, then the gate's; threads of
// other warps have decay and beta, and warps have rows of low-rank maps. No thread waits for words
// twice: whatever it needs of them is asked for at once, for an answer takes longer than all that
// is made of it. That code is short matters more than how it is shared out: a layer runs it once,
// out of an instruction cache that the whole layer does not fit into.
#pragma once

#include <algorithm>

#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/head_norm.cuh"
#include "kernels/cuda/rotary.cuh"
#include "kernels/cuda/step_load.cuh"
#include "kernels/cuda/step_program_block.cuh"
#include "kernels/cuda/step_token.cuh"
#include "kernels/cuda/warp_sum.cuh"

namespace fla::cuda {

constexpr int kMaxConvolution = 4;  // taps
constexpr int kMaxStateRows = 256;
constexpr int kColumnLanes = kProgramStateColumns / 4;
constexpr int kHeadThreads = kComputeThreads / 2;  // the most that have q and k

struct MixerShared {
  // q and k [K], not yet normalised, v, and what outputs are multiplied by [32].
  alignas(16) float inputs[2 * kMaxStateRows + 2 * kProgramStateColumns];
  float decays[kMaxStateRows];  // factors; of all rows the first where they have the same
  float beta;
  float norms[kHeadThreads / 32];  // what warps have of them
  StepSums<kComputeWarps, kColumnLanes> sums;
};

// Four channels of the convolution, but for their new inputs: what the old ones add up to, and the
// taps of the new ones.
struct FourChannels {
  float4 past, tap;
};
__device__ __noinline__ FourChannels LoadNarrowChannels(const PrepareStepArgs& args, int channel,
                                                        const float* state) {
  float past[4] = {}, tap[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* const taps = args.taps + (channel + i) * args.width;
#pragma unroll 1
    for (int j = 0; j + 1 < args.width; ++j) {
      past[i] += taps[j] * state[(channel + i) * (args.width - 1) + j];
    }
    tap[i] = taps[args.width - 1];
  }
  return {{past[0], past[1], past[2], past[3]}, {tap[0], tap[1], tap[2], tap[3]}};
}
__device__ __forceinline__ FourChannels LoadChannels(const PrepareStepArgs& args, int channel,
                                                     const float* state) {
  if (args.width == kMaxConvolution) {
    float4 t[4], old[3];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      t[i] = __ldg(reinterpret_cast<const float4*>(args.taps) + channel + i);
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      old[i] = *reinterpret_cast<const float4*>(state + 3 * channel + 4 * i);
    }
    return {{t[0].x * old[0].x + t[0].y * old[0].y + t[0].z * old[0].z,
             t[1].x * old[0].w + t[1].y * old[1].x + t[1].z * old[1].y,
             t[2].x * old[1].z + t[2].y * old[1].w + t[2].z * old[2].x,
             t[3].x * old[2].y + t[3].y * old[2].z + t[3].z * old[2].w},
            {t[0].w, t[1].w, t[2].w, t[3].w}};
  }
  if (args.width == 0) return {{0, 0, 0, 0}, {1, 1, 1, 1}};
  return LoadNarrowChannels(args, channel, state);
}

// Moves on the convolution's states of the block's share of channels. number: of the packed
// projection's words. By the last threads, whose warps have the least to multiply.
__device__ __forceinline__ void MoveConvolution(const ProgramMixer& mixer, int count, int slot,
                                                uint32_t number) {
  const PrepareStepArgs& args = mixer.prepare;
  const int mine = kComputeThreads - 1 - ThreadOfBlock();
  const int q = static_cast<int>(args.q.cols), k = static_cast<int>(args.k.cols);
  const int channel = blockIdx.x * count + mine;
  if (mine >= count || channel >= q + k + static_cast<int>(args.v.cols) || slot < 0) return;
  const int old_inputs = args.width - 1;
  float* const state = args.state + slot * args.slot_stride + channel * old_inputs;
  float old[kMaxConvolution - 2];
#pragma unroll
  for (int j = 0; j < kMaxConvolution - 2; ++j) old[j] = j + 1 < old_inputs ? state[j + 1] : 0.0f;
  const int word = channel < q       ? mixer.q_word + channel / 2
                   : channel < q + k ? mixer.k_word + (channel - q) / 2
                                     : mixer.v_word + (channel - q - k) / 2;
  const uint32_t pair = AwaitWord(mixer.packed + word, number);
#pragma unroll
  for (int j = 0; j < kMaxConvolution - 2; ++j) {
    if (j + 1 < old_inputs) state[j] = old[j];
  }
  state[old_inputs - 1] = channel % 2 == 0 ? Low(pair) : High(pair);
}

__device__ __forceinline__ float HalfOf(uint32_t pair, int i) {
  return i % 2 == 0 ? Low(pair) : High(pair);
}

// Of a pair of words the value of column i.
__device__ __forceinline__ float OneOf(uint2 pair, int i) {
  return HalfOf(i / 2 % 2 == 0 ? pair.x : pair.y, i);
}

// What is rare in functions: what a layer runs must stay in the instruction cache.
__device__ __noinline__ float ActivateRarely(Activation activation, float x) {
  return Activate<__nv_bfloat16>(activation, x);
}
__device__ __noinline__ float NormRarely(HeadNorm norm, float sum, float eps) {
  return HeadNormFactor(norm, sum, eps);
}
__device__ __forceinline__ float FactorOf(HeadNorm norm, float sum, float eps) {
  if (norm == HeadNorm::kNone) return 1.0f;
  if (norm == HeadNorm::kL2) return rsqrtf(sum + eps);
  return NormRarely(norm, sum, eps);
}
// The factor, as LogDecayOf (gates.cuh) has its logarithm. a_log: of the head.
__device__ __noinline__ float DecayOf(const ProgramMixer& mixer, float a_log, float x) {
  const LogDecayArgs& args = mixer.prepare.decay;
  if (args.kind == GateKind::kBoundedSigmoid) {
    return __expf(args.lower_bound * Sigmoid(__expf(a_log) * x));
  }
  // softplus(x) is max(x, 0) and this, log sigmoid(x) min(x, 0) less this.
  const float rest = log1pf(__expf(-fabsf(x)));
  if (args.kind == GateKind::kSoftplus) return __expf(-__expf(a_log) * (fmaxf(x, 0.0f) + rest));
  const float decay = (fminf(x, 0.0f) - rest) * mixer.inverse_normalizer;
  return __expf(decay < args.clamp_min ? args.clamp_min : decay);
}

// 16 rows of a low-rank map, as m16n8k16 wants them: a product's inputs may come in any order that
// is x's too, so a lane has chunks of 8 of two rows as they lie in memory, and of x the same. All 8
// columns of x are the same vector.
constexpr int kMapTileRows = 16;
struct MapTile {
  static constexpr int kChunks = kProgramMaxRank / 32;
  uint4 upper[kChunks] = {}, lower[kChunks] = {};

  static __device__ __forceinline__ int RowOf(int lane) { return lane / 4 + lane % 2 * 8; }

  __device__ __forceinline__ void Load(const LowRankMap& map, int first_row, int lane) {
    const int chunks = static_cast<int>(map.weight.cols) / 8;
    const int stride = static_cast<int>(map.weight.stride) / 8;
    const auto* const from =
        static_cast<const uint4*>(map.weight.data) + (first_row + lane / 4) * stride;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int chunk = lane % 4 + 4 * i;
      if (chunk < chunks) {
        upper[i] = __ldg(from + chunk);
        lower[i] = __ldg(from + 8 * stride + chunk);
      }
    }
  }
  // Of row RowOf(lane), in four lanes of which two name it.
  __device__ __forceinline__ float Times(const uint2 (&x)[2 * kChunks + 1], int lane) const {
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const uint4 a = upper[i], b = lower[i];
      MultiplyAdd(sums, a.x, b.x, a.y, b.y, x[2 * i].x, x[2 * i].y);
      MultiplyAdd(sums, a.z, b.z, a.w, b.w, x[2 * i + 1].x, x[2 * i + 1].y);
    }
    return lane % 2 == 0 ? sums[0] : sums[2];
  }
};

// Rotates the head's q and k in shared memory; the threads that have them.
template <int kKeyDim>
__device__ __noinline__ void RotateHeads(const PrepareStepArgs& args, float* query_key) {
  constexpr int kHalf = kKeyDim / 2;
  for (int i = threadIdx.x; i < kKeyDim; i += kHeadThreads) {
    const int pair = i % kHalf;
    float* const low = query_key + i / kHalf * kKeyDim + pair;
    RotationOf(pair, kKeyDim, args.rotary_base, args.positions[0]).Turn(low[0], low[kHalf]);
  }
}

// What a thread makes of the packed projection.
struct MixerInput {
  int word = -1;     // of a pair: its four channels
  int channel = -1;  // of the convolution
};
__device__ __forceinline__ MixerInput InputOf(const MixerItem& item, int key_dim) {
  const int thread = ThreadOfBlock(), group = key_dim / 4;
  const int of_key = thread - group, of_value = of_key - group;
  if (of_key < 0) return {item.q_word + 2 * thread, item.q_channel + 4 * thread};
  if (of_value < 0) return {item.k_word + 2 * of_key, item.k_channel + 4 * of_key};
  if (of_value < kColumnLanes) {
    return {item.v_word + 2 * of_value, item.v_channel + 4 * of_value};
  }
  return {};
}

// number: of the packed projection's words.
template <int kKeyDim>
__device__ __forceinline__ void RunMixerItem(const ProgramOp& op, Block& block,
                                             const MixerItem& item, int index, uint32_t number) {
  const ProgramMixer& mixer = op.mixer;
  const PrepareStepArgs& args = mixer.prepare;
  const RecurrenceParams& p = mixer.recurrence;
  MixerShared& shared = *block.mixer;
  const int thread = ThreadOfBlock();
  const int slot = block.state_slot;
  uint64_t* const out = op.to + item.out_word;
  uint64_t* const squares = mixer.sums + 2 * index;
  if (slot < 0) {  // a row of padding: whoever waits for it gets zeros
    if (thread < kColumnLanes) PutPair(out + 2 * thread, make_uint2(0, 0), number + 1);
    if (thread == 0) PutPair(squares, make_uint2(0, 0), number + 1);
    return;
  }
  const uint64_t* const packed = op.from;
  constexpr int kThreadsOfHead = kKeyDim / 4;
  static_assert(2 * kThreadsOfHead <= kHeadThreads && kThreadsOfHead % 16 == 0);
  // The lanes behind v's have the gates; beta and decay are other warps'.
  constexpr int kFirstGate = 2 * kThreadsOfHead + kColumnLanes;
  constexpr int kBetaThread = 2 * kThreadsOfHead + 32, kDecayThread = kBetaThread + 32;
  static_assert(kFirstGate + kColumnLanes <= kBetaThread && kDecayThread < kComputeThreads);
  const MixerInput input = InputOf(item, kKeyDim);
  const int lane = thread % 32, warp = thread / 32;
  const bool per_channel = p.decay == Decay::kPerChannel;
  const int first_decay = per_channel ? item.decay_column * kKeyDim : item.decay_column;
  const auto value_at = [](const float* values, int i) {
    return values != nullptr ? __ldg(values + i) : 0.0f;
  };
  const float* const norm_weight = mixer.norm_weight != nullptr
                                       ? mixer.norm_weight + item.slice * kProgramStateColumns
                                       : nullptr;

  // The thread's own words, and what it reads besides them: the convolution's, the weights of the
  // output's norm.
  const int of_gate = thread - kFirstGate;
  const bool has_factor = of_gate >= 0 && of_gate < kColumnLanes && mixer.gate_rank == 0;
  int word = input.word;
  FourChannels channels = {};
  float4 factor = make_float4(1, 1, 1, 1);
  if (input.word >= 0) {
    channels = LoadChannels(args, input.channel, args.state + slot * args.slot_stride);
  } else if (has_factor) {
    if (mixer.gate_word >= 0) word = mixer.gate_word + item.out_word + 2 * of_gate;
    if (norm_weight != nullptr) {
      factor = __ldg(reinterpret_cast<const float4*>(norm_weight) + of_gate);
    }
  } else if (thread == kBetaThread && args.beta_out != nullptr) {
    word = item.beta_column / 4 * 2;
  } else if (thread == kDecayThread && p.decay == Decay::kPerToken) {
    word = (mixer.decay_column + first_decay) / 4 * 2;
  }
  // Warps have one or two tiles of a map: warps with neither q, k nor v, unless K is 256. The
  // gate's are one warp's; where all have some of the decay's, it is the only one that waits again.
  constexpr int kTiles = kKeyDim / kMapTileRows, kWarpTiles = kTiles > 4 ? 2 : 1;
  constexpr int kFirstMapWarp = kComputeWarps - kTiles / kWarpTiles;
  constexpr int kGateWarp = kFirstMapWarp > 0 ? kFirstMapWarp - 1 : kComputeWarps - 1;
  static_assert(kKeyDim == 256 || kGateWarp * 32 >= kBetaThread);
  MapTile tiles[2];
  float bias[2] = {}, of_row[2] = {};  // of the lane's rows; a rate, or a weight of the norm
  int map_row = 0, map_rank = 0;
  const auto load_map = [&](bool gate) {
    const LowRankMap& map = gate ? args.gate_map : args.decay_map;
    map_rank = gate ? mixer.gate_rank : mixer.decay_rank;
    if (map_rank == 0) return;
    map_row = gate ? 0 : (warp - kFirstMapWarp) * kWarpTiles * kMapTileRows;
    const int first = map_row + (gate ? 2 * item.out_word : first_decay);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!gate && i == kWarpTiles) break;
      const int row = i * kMapTileRows + MapTile::RowOf(lane);
      tiles[i].Load(map, first + i * kMapTileRows, lane);
      bias[i] = value_at(map.bias, first + row);
      if (gate) {
        of_row[i] = norm_weight != nullptr ? __ldg(norm_weight + row) : 1.0f;
      } else {
        bias[i] += value_at(args.decay.dt_bias, first + row);
        of_row[i] = value_at(args.decay.a_log, item.rate_head);
      }
    }
  };
  // Pairs of a map's input, as lanes have chunks of its weights, and the thread's own.
  constexpr int kMapPairs = 2 * MapTile::kChunks;
  uint2 pairs[kMapPairs + 1];
  const auto await = [&](bool gate) {
    const uint64_t* const x = packed + (gate ? mixer.gate_x_word : mixer.decay_column / 2);
    const auto at = [&](int i) { return x + 4 * (lane % 4 + i / 2 * 4) + i % 2 * 2; };
    AwaitPairs<kMapPairs>(at, max(0, (map_rank / 8 - lane % 4 + 3) / 4 * 2),
                          word >= 0 ? packed + word : nullptr, number, pairs);
  };
  const auto use_map = [&](bool gate) {
    if (map_rank == 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (!gate && i == kWarpTiles) break;
      const float x = tiles[i].Times(pairs, lane) + bias[i];
      float* const to = gate ? shared.inputs + 2 * kKeyDim + kProgramStateColumns : shared.decays;
      const float y = gate ? of_row[i] * Sigmoid<__nv_bfloat16>(x) * (mixer.silu_gate ? x : 1.0f)
                           : DecayOf(mixer, of_row[i], x);
      if (lane % 4 < 2) to[map_row + i * kMapTileRows + MapTile::RowOf(lane)] = y;
    }
  };
  const bool is_gate_warp = warp == kGateWarp && kFirstMapWarp > 0;
  if (warp >= kFirstMapWarp || is_gate_warp) load_map(is_gate_warp);
  float decay_bias = 0.0f, a_log = 0.0f;
  if (p.decay == Decay::kPerToken && thread == kDecayThread) {
    decay_bias = value_at(args.decay.dt_bias, first_decay);
    a_log = value_at(args.decay.a_log, item.rate_head);
  }

  await(is_gate_warp);
  const uint2 pair = pairs[kMapPairs];
  float sum = 0.0f;
  if (input.word >= 0) {
    const bool is_value = thread >= 2 * kThreadsOfHead;
    const Activation activation = is_value ? args.v_activation : args.qk_activation;
    const HeadNorm norm = thread >= kThreadsOfHead ? args.k_norm : args.q_norm;
    float x[4] = {channels.past.x + channels.tap.x * Low(pair.x),
                  channels.past.y + channels.tap.y * High(pair.x),
                  channels.past.z + channels.tap.z * Low(pair.y),
                  channels.past.w + channels.tap.w * High(pair.y)};
    if (activation == Activation::kSilu) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] *= Sigmoid<__nv_bfloat16>(x[i]);
    } else if (activation != Activation::kIdentity) {
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = ActivateRarely(activation, x[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum += HeadNormTerm(norm, x[i]);
    *reinterpret_cast<float4*>(shared.inputs + 4 * thread) = make_float4(x[0], x[1], x[2], x[3]);
  } else if (has_factor) {
    if (mixer.gate_word >= 0) {
      const auto gate_of = [&](float x) {
        return Sigmoid<__nv_bfloat16>(x) * (mixer.silu_gate ? x : 1.0f);
      };
      factor.x *= gate_of(Low(pair.x)), factor.y *= gate_of(High(pair.x));
      factor.z *= gate_of(Low(pair.y)), factor.w *= gate_of(High(pair.y));
    }
    *reinterpret_cast<float4*>(shared.inputs + 4 * thread) = factor;
  } else if (thread == kBetaThread) {
    float beta = 1.0f;
    if (args.beta_out != nullptr) {
      beta = args.beta_scale * Sigmoid<__nv_bfloat16>(OneOf(pair, item.beta_column));
    } else if (p.beta != nullptr) {
      beta = p.beta[item.head];
    }
    shared.beta = beta;
  } else if (thread == kDecayThread && !per_channel) {
    float decay = 1.0f;
    if (p.decay == Decay::kPerToken) {
      decay = DecayOf(mixer, a_log, OneOf(pair, mixer.decay_column + first_decay) + decay_bias);
    } else if (p.decay == Decay::kPerHead) {
      decay = __expf(p.log_decay[item.head]);
    }
    shared.decays[0] = decay;
  }
  if (warp >= kFirstMapWarp || is_gate_warp) use_map(is_gate_warp);
  if (kFirstMapWarp == 0 && warp == kGateWarp && mixer.gate_rank > 0) {
    word = -1;
    load_map(true);
    await(true);
    use_map(true);
  }
  if (per_channel && mixer.decay_rank == 0 && thread < kKeyDim) {
    // Without a map.
    const int column = mixer.decay_column + first_decay + thread;
    const float x = HalfOf(AwaitWord(packed + column / 2, number), column) +
                    value_at(args.decay.dt_bias, first_decay + thread);
    shared.decays[thread] = DecayOf(mixer, value_at(args.decay.a_log, item.rate_head), x);
  }
  // A head of 64 channels is half a warp.
  constexpr int kLanes = kThreadsOfHead < 32 ? kThreadsOfHead : 32;
  sum = WarpSum<kLanes>(sum);
  if (thread < 2 * kThreadsOfHead && thread % kLanes == 0) shared.norms[thread / kLanes] = sum;
  if (args.rotary_base > 0.0f) {
    SyncComputeThreads();
    if (thread < kHeadThreads) RotateHeads<kKeyDim>(args, shared.inputs);
  }
  SyncComputeThreads();

  // The state, as LoadStepKernel has it (step_load.cuh).
  constexpr int kRows = kKeyDim / 32;  // of a thread
  constexpr int kPieceRows = kKeyDim < kProgramStateRows ? kKeyDim : kProgramStateRows;
  constexpr int kPieces = kKeyDim / kPieceRows;
  const StatePart part(p, kColumnLanes, kComputeWarps, item.slice, item.head);
  const int first_row = thread / kColumnLanes * kRows;
  float query[kRows], key[kRows], decays[kRows];
  LoadNeighbours(shared.inputs + first_row, query);
  LoadNeighbours(shared.inputs + kKeyDim + first_row, key);
  if (per_channel) {
    LoadNeighbours(shared.decays + first_row, decays);
  } else {
#pragma unroll
    for (float& decay : decays) decay = shared.decays[0];
  }
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
    Scale(s[i], decays[i]);
    AddScaled(from_q, query[i], s[i]);
    AddScaled(from_k, key[i], s[i]);
    q_dot_k += query[i] * key[i];
  }
  AddUp<true>(part, from_q, from_k, q_dot_k, shared.sums);
  const float beta = shared.beta;
  constexpr int kNorms = kKeyDim / 4 < 32 ? 1 : kKeyDim / 4 / 32;  // partial sums of a head
  float q_sum = 0.0f, k_sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kNorms; ++i) q_sum += shared.norms[i], k_sum += shared.norms[kNorms + i];
  const float q_factor = FactorOf(args.q_norm, q_sum, args.norm_eps);
  const float k_factor = FactorOf(args.k_norm, k_sum, args.norm_eps);
  SyncComputeThreads();
  if (thread < kRingReleases) {
    block.ring.Release(block.cursor);
    if (kPieces > 1) block.ring.Release(last);
  }
  block.ring.Advance(block.cursor, kPieces);
  // With S decayed and q and k normalised: u = beta (v - S^T k), out = S^T q + (q . k) u.
  float4 u = *reinterpret_cast<const float4*>(shared.inputs + 2 * kKeyDim + 4 * part.column_lane);
  if (p.beta != nullptr) {
    float4 from = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kComputeWarps; ++w) {
      AddScaled(from, 1.0f, shared.sums.from_k[w][part.column_lane]);
    }
    AddScaled(u, -k_factor, from);
    Scale(u, beta);
  }
  if (thread < 32) {
    float4 o = make_float4(0, 0, 0, 0);
    float product = 0.0f;
#pragma unroll
    for (int w = 0; w < kComputeWarps; ++w) {
      AddScaled(o, 1.0f, shared.sums.from_q[w][part.column_lane]);
      product += shared.sums.q_dot_k[w];
    }
    Scale(o, q_factor * p.scale);
    AddScaled(o, product * q_factor * k_factor * p.scale, u);
    const float4 factor = *reinterpret_cast<const float4*>(
        shared.inputs + 2 * kKeyDim + kProgramStateColumns + 4 * part.column_lane);
    const float square = WarpSum<kColumnLanes>(o.x * o.x + o.y * o.y + o.z * o.z + o.w * o.w);
    if (thread < kColumnLanes) {
      PutPair(
          out + 2 * thread,
          make_uint2(Pack(o.x * factor.x, o.y * factor.y), Pack(o.z * factor.z, o.w * factor.w)),
          number + 1);
    }
    if (thread == 0) PutPair(squares, make_uint2(__float_as_uint(square), 0), number + 1);
  }
  float* const state =
      static_cast<float*>(p.state) +
      (static_cast<int64_t>(slot * p.heads + item.head) * kKeyDim + first_row) * p.value_dim +
      part.column;
  Scale(u, k_factor);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
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
    const MixerItem& item = first ? *block.first_item : op.mixer.plan[i];
    RunMixerItem<kKeyDim>(op, block, item, i, number);
  }
}

// Begins to fetch what the block's item will read besides words: for the op before it.
__device__ __forceinline__ void PrefetchMixer(const ProgramMixer& mixer, const Block& block) {
  const PrepareStepArgs& args = mixer.prepare;
  if (blockIdx.x >= mixer.items || block.state_slot < 0) return;
  const MixerItem& item = *block.first_item;
  const int key_dim = args.head_k_dim, thread = ThreadOfBlock();
  const int channel = InputOf(item, key_dim).channel;
  if (args.width > 0 && channel >= 0) {
    PrefetchToL2(args.taps + channel * args.width);
    PrefetchToL2(args.state + block.state_slot * args.slot_stride + channel * (args.width - 1));
  }
  if (thread == kComputeThreads - 1) {
    if (args.decay.a_log != nullptr) PrefetchToL2(args.decay.a_log + item.rate_head);
    if (args.decay.dt_bias != nullptr) PrefetchToL2(args.decay.dt_bias + item.decay_column);
    if (mixer.norm_weight != nullptr) {
      PrefetchToL2(mixer.norm_weight + item.slice * kProgramStateColumns);
    }
  }
  // The rows of maps that it wants lie one after the other.
  const auto fetch_rows = [thread](const Matrix& weight, int first, int rows) {
    const auto* const begin = static_cast<const char*>(weight.data) + first * weight.stride * 2;
    const int bytes = rows * static_cast<int>(weight.stride) * 2;
#pragma unroll 1
    for (int at = thread * 128; at < bytes; at += kComputeThreads * 128) PrefetchToL2(begin + at);
  };
  if (mixer.decay_rank > 0) {
    fetch_rows(args.decay_map.weight, item.decay_column * key_dim, key_dim);
  }
  if (mixer.gate_rank > 0) {
    fetch_rows(args.gate_map.weight, 2 * item.out_word, kProgramStateColumns);
  }
}

}  // namespace fla::cuda
