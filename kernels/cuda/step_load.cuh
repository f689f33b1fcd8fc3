// Decode for heads of 64, 128 or 256: a block loads its part of a state into registers, all loads
// at once, and stores it from there.
//
// A call of few states takes two to seven microseconds, so instructions count: there is nothing
// here that a shape in use does not need, and all loops have a length that is known. That is why it
// takes half the time of RecurrentKernel (step.cuh), which is for any shape and number of tokens.
// Of many states memory decides: 24 warps a multiprocessor with eight loads each on their way, and
// an L2 cache that keeps what will be written back (README.md, "What was learnt").
//
// Grid (V / 4 kLanes, H, N), 32 kWarps threads: a block has 4 kLanes columns of one state, a thread
// kRows rows of 4 columns (step_token.cuh). bf16 activations, one token a sequence.
#pragma once

#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/step_launch.h"
#include "kernels/cuda/step_token.cuh"

namespace fla::cuda {

// kCount neighbours, aligned to 4 kCount bytes or 16.
template <int kCount>
__device__ __forceinline__ void LoadNeighbours(const float* source, float (&x)[kCount]) {
  if constexpr (kCount == 2) {
    const float2 two = *reinterpret_cast<const float2*>(source);
    x[0] = two.x, x[1] = two.y;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = LoadFour(source + i);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  }
}
// kCount neighbours in one load.
template <int kCount>
__device__ __forceinline__ void LoadNeighbours(const __nv_bfloat16* source, float (&x)[kCount]) {
  uint32_t pairs[kCount / 2];
  if constexpr (kCount == 2) {
    pairs[0] = *reinterpret_cast<const uint32_t*>(source);
  } else if constexpr (kCount == 4) {
    const uint2 four = *reinterpret_cast<const uint2*>(source);
    pairs[0] = four.x, pairs[1] = four.y;
  } else {
    static_assert(kCount == 8);
    const uint4 eight = *reinterpret_cast<const uint4*>(source);
    pairs[0] = eight.x, pairs[1] = eight.y, pairs[2] = eight.z, pairs[3] = eight.w;
  }
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) x[2 * i] = Low(pairs[i]), x[2 * i + 1] = High(pairs[i]);
}

// Blocks that a multiprocessor has room for: 24 warps whose loads are all on their way, or more.
constexpr int LoadStepBlocks(int rows, int warps) { return (rows == 8 ? 24 : 32) / warps; }

// How a block's threads are dealt out to kKeyDim rows of 4 kLanes columns.
template <int kRows_, int kWarps_, int kLanes_>
struct LoadStepBlock {
  static constexpr int kRows = kRows_, kWarps = kWarps_, kLanes = kLanes_;
  static constexpr int kKeyDim = 32 * kWarps / kLanes * kRows, kColumns = 4 * kLanes;
};

// Of a thread's first element, in the pool's states.
template <typename Block>
__device__ __forceinline__ int64_t StateOffset(const RecurrenceParams& p, const StatePart& part,
                                               int slot) {
  const int first_row = threadIdx.x / Block::kLanes * Block::kRows;
  return (static_cast<int64_t>(slot * p.heads + part.head) * Block::kKeyDim + first_row) *
             p.value_dim +
         part.column;
}

// Begins to bring a quarter of the rows of the tile `ahead` blocks on, that of the block which will
// follow this one, to L2: memory has little else to do from when all that fits into registers has
// come until the kernel before is known to have ended.
template <typename S, typename Block>
__device__ __forceinline__ void PrefetchAhead(const RecurrenceParams& p, int ahead) {
  constexpr int kLineLanes = std::min(Block::kLanes, 128 / static_cast<int>(4 * sizeof(S)));
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  if (block >= ahead || threadIdx.x % kLineLanes != 0) return;
  const int next = block + ahead, n = next / (gridDim.x * gridDim.y);
  if (n >= p.num_sequences || p.slots[n] < 0) return;
  const StatePart part(p, Block::kLanes, Block::kWarps, next % gridDim.x,
                       next / gridDim.x % gridDim.y);
  const S* const state = static_cast<const S*>(p.state) + StateOffset<Block>(p, part, p.slots[n]);
#pragma unroll
  for (int i = 0; i < Block::kRows / 4; ++i) PrefetchStateToL2(state + i * p.value_dim);
}

// S state. `many`: L2 keeps states from load to store, and inputs are asked for before the wait;
// `ahead`: see PrefetchAhead.
template <typename S, typename Block, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(32 * Block::kWarps, LoadStepBlocks(Block::kRows, Block::kWarps))
    LoadStepKernel(const RecurrenceParams p, const bool many, const int ahead) {
  constexpr int kRows = Block::kRows, kWarps = Block::kWarps, kLanes = Block::kLanes;
  constexpr int kKeyDim = Block::kKeyDim;
  __shared__ StepSums<kWarps, kLanes> sums;
  BeginNextKernel();
  const int n = blockIdx.z, slot = p.slots[n];
  if (slot < 0) return AwaitPreviousKernel();
  const StatePart part(p, kLanes, kWarps);
  const int first_row = threadIdx.x / kLanes * kRows;
  S* const state = static_cast<S*>(p.state) + StateOffset<Block>(p, part, slot);
  const __nv_bfloat16* const q = static_cast<const __nv_bfloat16*>(p.q) + n * p.q_stride +
                                 part.head / p.q_group * kKeyDim + first_row;
  const __nv_bfloat16* const k = static_cast<const __nv_bfloat16*>(p.k) + n * p.k_stride +
                                 part.head / p.k_group * kKeyDim + first_row;
  const __nv_bfloat16* const v = static_cast<const __nv_bfloat16*>(p.v) + n * p.v_stride +
                                 part.head / p.v_group * p.value_dim + part.column;
  const int decay_head =
      p.decay == Decay::kPerHead ? part.head : n * p.decay_heads + part.head / p.decay_group;
  const float* const decays =
      p.log_decay +
      (kChannel ? static_cast<int64_t>(decay_head) * kKeyDim + first_row : decay_head);
  const float* const betas = p.beta + n * p.heads + part.head;
  Raw<S> raw[kRows];
  if (many) {
    // The kernel before may still be writing them: that is well, for it writes to the same cache.
    constexpr int kPiece = 32;  // rows: 64 bytes of q and of k, 128 of decays
    if (part.column_lane == 0 && first_row % kPiece == 0) {
      PrefetchToL2(q);
      PrefetchToL2(k);
      if constexpr (kChannel) PrefetchToL2(decays);
    }
    if (threadIdx.x == 0) {
      PrefetchToL2(v);
      if constexpr (kDelta) PrefetchToL2(betas);
      if (!kChannel && p.decay != Decay::kNone) PrefetchToL2(decays);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      raw[i] = LoadBy(kWrittenBack, reinterpret_cast<const Raw<S>*>(state + i * p.value_dim));
    }
    PrefetchAhead<S, Block>(p, ahead);
  } else {
#pragma unroll
    for (int i = 0; i < kRows; ++i) raw[i] = LoadState(state + i * p.value_dim);
  }
  AwaitPreviousKernel();

  float query[kRows], key[kRows];
  LoadNeighbours(q, query);
  LoadNeighbours(k, key);
  const float4 value = LoadFour(v);
  const float beta = kDelta ? *betas : 1.0f;
  // Per channel the rows take their decays before the sums; else sums and rows take one after.
  float decay[kChannel ? kRows : 1] = {1.0f};
  if constexpr (kChannel) {
    LoadNeighbours(decays, decay);
#pragma unroll
    for (int i = 0; i < kRows; ++i) decay[i] = __expf(decay[i]);
  } else if (p.decay != Decay::kNone) {
    decay[0] = __expf(*decays);
  }
  const float all = kChannel ? 1.0f : decay[0];

  float4 s[kRows];
  float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
  float q_dot_k = 0.0f;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    s[i] = Unpack(raw[i]);
    if constexpr (kChannel) Scale(s[i], decay[i]);
    AddScaled(from_q, query[i], s[i]);
    if constexpr (kDelta) AddScaled(from_k, key[i], s[i]);
    q_dot_k += query[i] * key[i];
  }
  if constexpr (!kChannel) Scale(from_q, all), Scale(from_k, all);
  AddUp<kDelta>(part, from_q, from_k, q_dot_k, sums);
  __syncthreads();
  const float4 u = UpdateOf<kDelta>(part, sums, value, beta);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if constexpr (!kChannel) Scale(s[i], all);
    AddScaled(s[i], key[i], u);
    if (many) {
      StoreFour(state + i * p.value_dim, s[i]);
    } else {
      StoreState(state + i * p.value_dim, s[i]);
    }
  }
  StoreOut<__nv_bfloat16>(p, part, n, sums, u);
}

template <typename S, typename Block>
void LaunchLoadStepKernel(const RecurrenceParams& p, bool many, cudaStream_t stream, bool chained) {
  const dim3 grid(p.value_dim / Block::kColumns, p.heads, p.num_sequences);
  const bool channel = p.decay == Decay::kPerChannel;
  const auto kernel = p.beta    ? channel ? LoadStepKernel<S, Block, true, true>
                                          : LoadStepKernel<S, Block, true, false>
                         : channel ? LoadStepKernel<S, Block, false, true>
                                : LoadStepKernel<S, Block, false, false>;
  const int at_once = LoadStepBlocks(Block::kRows, Block::kWarps) * Multiprocessors();
  Check(LaunchChained(kernel, grid, dim3(32 * Block::kWarps), 0, stream, chained, p, many,
                      many && chained ? at_once : 0),
        "LoadStepKernel");
}

// Blocks of 16, 32 or, Wide, as many columns as pay where there are many states.
template <typename S, typename Narrow, typename Middle, typename Wide>
void LaunchLoadStepColumns(const RecurrenceParams& p, const StepPlan& plan, cudaStream_t stream,
                           bool chained) {
  static_assert(Narrow::kColumns == 16 && Middle::kColumns == 32);
  static_assert(Narrow::kKeyDim == Middle::kKeyDim && Middle::kKeyDim == Wide::kKeyDim);
  const auto launch = plan.columns == 16   ? LaunchLoadStepKernel<S, Narrow>
                      : plan.columns == 32 ? LaunchLoadStepKernel<S, Middle>
                                           : LaunchLoadStepKernel<S, Wide>;
  launch(p, plan.many, stream, chained);
}

template <typename S>
void LaunchLoadStepOf(const RecurrenceParams& p, const StepPlan& plan, cudaStream_t stream,
                      bool chained) {
  switch (p.key_dim) {
    case 64:
      return LaunchLoadStepColumns<S, LoadStepBlock<2, 4, 4>, LoadStepBlock<2, 8, 8>,
                                   LoadStepBlock<8, 4, 16>>(p, plan, stream, chained);
    case 128:
      return LaunchLoadStepColumns<S, LoadStepBlock<4, 4, 4>, LoadStepBlock<4, 8, 8>,
                                   LoadStepBlock<8, 8, 16>>(p, plan, stream, chained);
    default:
      return LaunchLoadStepColumns<S, LoadStepBlock<8, 4, 4>, LoadStepBlock<8, 8, 8>,
                                   LoadStepBlock<8, 8, 8>>(p, plan, stream, chained);
  }
}

}  // namespace fla::cuda
