// A decode step of one row as one kernel that stays on the GPU.
//
// Grid: a block a multiprocessor (fewer where a projection has fewer tiles), 8 warps that compute
// and one that copies. Every block walks the same list of ops. It has a share of each op's tiles
// of weights, or of states; what an op makes is handed to all blocks as an exchange
// (exchange.cuh). What tiles a block will need does not depend on anything that the step computes:
// its copying warp brings them, one after the other, to a ring of slots in shared memory, through
// the ends of ops and of layers, so that memory never waits for them. Only so much is on its way
// at a time as memory needs to be busy, and less of what is not yet multiplied: what is more stands
// in the way of the words that blocks wait for.
//
// Linear: a warpgroup takes a whole slot, 8 rows of the weight and 1024 inputs, or 2048 of e4m3,
// multiplies it with x by wgmma and leaves its warps' sums in shared memory; when the block's tiles
// are through, its threads add up the pieces. Weights of e4m3 are multiplied as they are, by x as
// two e4m3 numbers (fp8.cuh): widening them would take as long as fetching them. A layer's norms
// are never a step of their own: their weights are in the words of their input, whose squares are
// added up where they are made.
//
// No buffer of an exchange is written before all have read what was there: a block writes op o's
// words after it has read all of op o - 1's, which are complete only when every block has done
// op o - 1, and every block has tiles of every linear.
#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/step_program.h"
#include "kernels/cuda/step_program_block.cuh"
#include "kernels/cuda/step_program_mixer.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace fla::cuda {
namespace {

using Output = ProgramLinear::Output;

constexpr int kRingAlignment = 1024;

// A warpgroup multiplies a slot as if its 16 panels of 8 rows were two matrices of 64 rows, and x
// two of 8 columns, a panel each: of their product the elements of equal panels are what is wanted.
constexpr int kGroupThreads = kComputeThreads / kProgramGroups, kGroupWarps = kGroupThreads / 32;
static_assert(kGroupWarps == kRingReleases);
constexpr int kMatrices = 2, kMatrixPanels = kProgramPanels / kMatrices;
constexpr int kMatrixBytes = kMatrixPanels * kProgramTileRows * kProgramPanelBytes;

static_assert(kMatrices * kMatrixBytes == kProgramSlotBytes && kMatrixPanels == 2 * kGroupWarps);
static_assert(kProgramStateRows * kProgramStateColumns * sizeof(float) <= kProgramSlotBytes);

// x of a linear in shared memory, panels of it in the swizzle of wgmma's, eight to a matrix. Beside
// e4m3 weights, split (fp8.cuh): the matrix of the low ones follows that of the high, and the
// scales of panels lie behind all pieces.
template <bool kFp8>
struct StagedX {
  static constexpr int kParts = kFp8 ? 2 : 1;
  static constexpr int kPartBytes = kMatrixPanels * kProgramPanelBytes;
  static constexpr int kPairBytes = kFp8 ? 4 : 8;  // of a pair of words, in a part
  static constexpr int kPairs = kProgramPanelBytes / kPairBytes;

  // Where a pair of words is, in its first part.
  static __device__ __forceinline__ uint32_t OffsetOf(uint32_t pair) {
    const uint32_t panel = pair / kPairs, byte = pair % kPairs * kPairBytes;
    const uint32_t row = panel % kMatrixPanels;
    return panel / kMatrixPanels * (kParts * kPartBytes) + row * kProgramPanelBytes +
           ((byte / 16 ^ row) * 16 | byte % 16);
  }
  static __device__ __forceinline__ float* Scales(char* staged, int pieces) {
    return reinterpret_cast<float*>(staged + pieces * kMatrices * kParts * kPartBytes);
  }
  // From a pair's place to that of the pair kComputeThreads behind it.
  static constexpr int kStepPanels = kComputeThreads / kPairs;
  static constexpr int kStepBytes = kStepPanels / kMatrixPanels * kParts * kPartBytes;
  static_assert(kStepPanels % kMatrixPanels == 0 && 32 % kPairs == 0);

  // to: a pair's place; scale: its panel's. A panel of e4m3 numbers is a warp's.
  static __device__ __forceinline__ void Put(char* to, float* scale, int lane, uint2 x) {
    if constexpr (!kFp8) {
      *reinterpret_cast<uint2*>(to) = x;
    } else {
      const float values[4] = {Low(x.x), High(x.x), Low(x.y), High(x.y)};
      float largest = 0.0f;
#pragma unroll
      for (const float value : values) largest = fmaxf(largest, fabsf(value));
      // As integers, magnitudes compare as they do as numbers.
      const SplitScale of_panel =
          SplitScaleOf(__reduce_max_sync(~0u, __float_as_uint(largest)) >> 23);
      uint32_t high = 0, low = 0;
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        uint32_t of_high, of_low;
        SplitFp8(values[i] * of_panel.factor, values[i + 1] * of_panel.factor, of_high, of_low);
        high |= of_high << 8 * i, low |= of_low << 8 * i;
      }
      *reinterpret_cast<uint32_t*>(to) = high;
      *reinterpret_cast<uint32_t*>(to + kPartBytes) = low;
      if (lane == 0) *scale = of_panel.scale;
    }
  }
  static __device__ __forceinline__ void Clear(char* to, float* scale, int lane) {
    if constexpr (!kFp8) {
      *reinterpret_cast<uint2*>(to) = make_uint2(0, 0);
    } else {
      *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<uint32_t*>(to + kPartBytes) = 0;
      if (lane == 0) *scale = 0.0f;
    }
  }
};

// The warp that copies; one of its lanes does.
__device__ __forceinline__ void CopyAll(const ProgramParams& p, const Block& block) {
  const Ring& ring = block.ring;
  RingCursor at, landed;
  int on_the_way = 0;
  ProgramStream op = p.streams[0], after = op;
#pragma unroll 1
  for (int o = 0; o < p.count; ++o, op = after) {
    if (o + 1 < p.count) after = p.streams[o + 1];
    const TileMap& map = p.maps[op.map];
    const bool states = op.items > 0;
    if (states && block.state_slot < 0) continue;
    Share share = ShareOf(op.base, op.rest);
    const int step = states ? gridDim.x : 1;
    const int end = states ? op.items : share.begin + share.count;
#pragma unroll 1
    for (int unit = states ? blockIdx.x : share.begin; unit < end; unit += step) {
      int row = unit * op.unit_rows, panel = 0;
      if (states) {
        const bool first = unit == blockIdx.x;
        const MixerItem& item = first ? *block.first_item : p.plan[unit];
        row = (block.state_slot * p.heads + item.head) * op.unit_rows;
        panel = item.slice;
      }
#pragma unroll 1
      for (int piece = 0; piece < op.pieces; ++piece) {
        // The next slot, once it is free and little enough is on its way.
        while (on_the_way >=
               (atomicAdd(block.multiplied, 0) == o ? p.in_flight : p.in_flight_ahead)) {
          ring.AwaitFull(landed);
          ring.Advance(landed, 1);
          --on_the_way;
        }
        ++on_the_way;
        ring.AwaitEmpty(at);
        const uint32_t full = ring.FullBarrier(at);
        ArriveExpecting(full, op.slot_bytes);
        CopyPanelsToShared(ring.Address(at), map, row, panel, full, kReadOnce);
        ring.Advance(at, 1);
        row += op.piece_rows, panel += op.piece_panels;
      }
    }
  }
}

// The part of row l / 4 of a slot's weights times x that warp w of the group has, in lanes
// l % 4 = w: of panels 2 w and 2 w + 1 of each matrix.
template <bool kFp8>
__device__ __forceinline__ float MultiplySlot(const Block& block, int piece, int pieces,
                                              uint32_t slot, int warp) {
  using X = StagedX<kFp8>;
  constexpr int kParts = X::kParts, kStepBytes = 32;
  constexpr int kInputBytes = kParts * X::kPartBytes;
  float sums[kMatrices][kParts][4];
  float2 scales[kMatrices];
  if constexpr (kFp8) {
    const float* const of_piece =
        X::Scales(block.staged, pieces) + piece * kProgramPanels + 2 * warp;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      scales[m] = *reinterpret_cast<const float2*>(of_piece + m * kMatrixPanels);
    }
  }
  // The same in all lanes, as the compiler should know: descriptors are uniform registers.
  const uint64_t a = RowsDescriptor(__shfl_sync(~0u, slot, 0));
  const uint64_t b = RowsDescriptor(
      __shfl_sync(~0u, SharedAddress(block.staged) + piece * kMatrices * kInputBytes, 0));
  BeginProducts();
#pragma unroll
  for (int at = 0; at < kProgramPanelBytes; at += kStepBytes) {
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      const uint64_t of_a = a + (m * kMatrixBytes + at) / 16,
                     of_b = b + (m * kInputBytes + at) / 16;
      if constexpr (kFp8) {
        WarpgroupMultiplyAddFp8(sums[m], of_a, of_b, at > 0);
      } else {
        WarpgroupMultiplyAdd(sums[m], of_a, of_b, at > 0);
      }
    }
  }
  CommitProducts();
  WaitForProducts<0>();
#pragma unroll
  for (auto& of_matrix : sums) Settle(of_matrix);
  if constexpr (!kFp8) {
    return (sums[0][0][0] + sums[0][0][3]) + (sums[1][0][0] + sums[1][0][3]);
  } else {
    float total = 0.0f;
#pragma unroll
    for (int m = 0; m < kMatrices; ++m) {
      total += (sums[m][0][0] + sums[m][1][0] * (1 / kSplitLow)) * scales[m].x;
      total += (sums[m][0][3] + sums[m][1][3] * (1 / kSplitLow)) * scales[m].y;
    }
    return total;
  }
}

__device__ __forceinline__ float SumOfLanes(float x, int lanes) {
#pragma unroll 1
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

// The input to shared memory. Where a head's norm is its own, heads are multiplied by it here; what
// is one norm's is left in block.of_parts, a warp's sum each, and multiplied into the outputs.
template <bool kFp8>
__device__ __forceinline__ void Stage(const ProgramOp& op, Block& block, uint32_t number) {
  using X = StagedX<kFp8>;
  constexpr int kPairsAtOnce = 6;
  constexpr int kStep = kComputeThreads;  // pairs
  const ProgramLinear& linear = op.linear;
  const int thread = ThreadOfBlock(), lane = thread % 32;
  const bool by_head = linear.head_shift >= 0;
  // Where the thread's next pair goes, and the scale of its panel.
  char* to = block.staged + X::OffsetOf(thread);
  float* scale = X::Scales(block.staged, linear.pieces) + thread / X::kPairs;
  const auto advance = [&] { to += X::kStepBytes, scale += X::kStepPanels; };
  const uint64_t* sums = thread < linear.sum_count ? linear.sums + 2 * thread : nullptr;
#pragma unroll 1
  for (int first = 0; first < linear.in_pairs; first += kPairsAtOnce * kStep) {
    const int begin = first + thread;
    const int count = max(0, min(kPairsAtOnce, (linear.in_pairs - begin + kStep - 1) / kStep));
    uint2 pairs[kPairsAtOnce + 1];
    const auto at = [&](int i) { return op.from + 2 * (begin + i * kStep); };
    AwaitPairs<kPairsAtOnce>(at, count, sums, number, pairs);
    if (first == 0 && linear.sum_count > 0) {
      float sum = sums != nullptr ? __uint_as_float(pairs[kPairsAtOnce].x) : 0.0f;
      sum = SumOfLanes(sum, linear.sum_lanes);
      sums = nullptr;
      if (by_head) sum = rsqrtf(sum * linear.inverse_size + linear.eps);
      if ((thread & (linear.sum_lanes - 1)) == 0) block.of_parts[thread / linear.sum_lanes] = sum;
      if (by_head) SyncComputeThreads();
    }
    // Not unrolled, for instructions that are fetched take longer than those that are repeated.
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      uint2 x = pairs[0];
#pragma unroll
      for (int j = 1; j < kPairsAtOnce; ++j) pairs[j - 1] = pairs[j];
      if (by_head) {
        const float factor = block.of_parts[(begin + i * kStep) >> linear.head_shift];
        x = make_uint2(Pack(Low(x.x) * factor, High(x.x) * factor),
                       Pack(Low(x.y) * factor, High(x.y) * factor));
      }
      X::Put(to, scale, lane, x);
      advance();
    }
  }
  // Behind the input, where the last piece ends.
  const int all = linear.pieces * kProgramPanels * X::kPairs;
  const int staged = (linear.in_pairs - thread + kStep - 1) / kStep * kStep;
#pragma unroll 1
  for (int pair = thread + staged; pair < all; pair += kStep) {
    X::Clear(to, scale, lane);
    advance();
  }
  PublishToTensorCores();
}

// Hands on the block's share of the residual stream, this thread's two columns where it has some,
// as what reads it next wants it. All threads of the first warp.
__device__ __forceinline__ void PutResidual(float2 residual, bool has_columns, int column,
                                            float2 weight, uint64_t* words, uint64_t* sums,
                                            uint32_t number) {
  float square = 0.0f;
  if (has_columns) {
    PutWord(words + column / 2, Pack(residual.x * weight.x, residual.y * weight.y), number);
    square = residual.x * residual.x + residual.y * residual.y;
  }
  square = SumOfLanes(square, 32);
  if (threadIdx.x == 0) {
    PutPair(sums + 2 * blockIdx.x, make_uint2(__float_as_uint(square), 0), number);
  }
}

// Multiplies the block's next slots, so many pieces of each tile, by the input; adds nothing up.
template <bool kFp8>
__device__ __forceinline__ void MultiplySlots(const Block& block, int slots, int pieces) {
  const int thread = ThreadOfBlock(), lane = thread % 32;
  const int group = thread / kGroupThreads, warp = thread / 32 % kGroupWarps;
  RingCursor at = block.cursor;
  block.ring.Advance(at, group);
  int piece = group;
#pragma unroll 1
  for (int i = group; i < slots; i += kProgramGroups) {
#pragma unroll 1
    while (piece >= pieces) piece -= pieces;
    block.ring.AwaitFull(at);
    const float sum = MultiplySlot<kFp8>(block, piece, pieces, block.ring.Address(at), warp);
    if (lane == 0) block.ring.Release(at);
    if (lane % 4 == warp) {
      block.sums[(i * kGroupWarps + warp) * kProgramTileRows + lane / 4] = sum;
    }
    block.ring.Advance(at, kProgramGroups);
    piece += kProgramGroups;
  }
}

// Of two neighbouring rows of a tile what their weights are to be multiplied by.
__device__ __forceinline__ float2 ScalesOf(const ProgramLinear& linear, int tile, int row) {
  constexpr int kHalf = kProgramTileRows / 2;
  int weight_row = tile * kProgramTileRows + row, rows = linear.out;
  if (linear.output == Output::kSwiGlu) {
    weight_row = tile * kHalf + row % kHalf + (row < kHalf ? 0 : linear.out);
    rows = 2 * linear.out;
  }
  if (weight_row >= rows) return make_float2(0.0f, 0.0f);
  return __ldg(reinterpret_cast<const float2*>(linear.scales + weight_row));
}

// number: of the words that the op before wrote; this one's are number + 1.
template <bool kFp8>
__device__ __forceinline__ void RunLinear(const ProgramOp& op, Block& block, uint32_t number) {
  const ProgramLinear& linear = op.linear;
  const int thread = ThreadOfBlock(), warp = thread / 32;
  const int pieces = linear.pieces;
  const Share share = ShareOf(linear.base, linear.rest);
  const bool fp8 = kFp8 && linear.scales != nullptr;

  if (fp8) {
    Stage<true>(op, block, number);
  } else {
    Stage<false>(op, block, number);
  }
  SyncComputeThreads();
  if (thread == 0) atomicExch(block.multiplied, block.op);
  if (linear.before_mixer) PrefetchMixer(op.mixer, block);
  float2 next_norm = make_float2(0.0f, 0.0f);  // of the thread's columns of the residual
  if (linear.output == Output::kAdd) {
    const int column = share.begin * kProgramTileRows + 2 * thread;
    if (thread < share.count * kProgramTileRows / 2 && column < linear.out) {
      next_norm = __ldg(reinterpret_cast<const float2*>(linear.next_norm + column));
    }
  }

#pragma unroll 1
  for (int first = 0; first < share.count; first += linear.tiles_at_once) {
    const int tiles = min(linear.tiles_at_once, share.count - first), slots = tiles * pieces;
    // A thread finishes two neighbouring rows of a tile.
    const int my_tile = thread / 4;
    const int my_pair = 2 * (thread % 4);
    float2 scale = make_float2(1.0f, 1.0f);
    if (fp8) {
      if (my_tile < tiles) scale = ScalesOf(linear, share.begin + first + my_tile, my_pair);
      MultiplySlots<true>(block, slots, pieces);
    } else {
      MultiplySlots<false>(block, slots, pieces);
    }
    block.ring.Advance(block.cursor, slots);
    SyncComputeThreads();

    float2 value = make_float2(0.0f, 0.0f);
    if (my_tile < tiles) {
      const float* from = block.sums + my_tile * pieces * kGroupWarps * kProgramTileRows + my_pair;
#pragma unroll 1
      for (int i = 0; i < pieces; ++i) {
#pragma unroll
        for (int w = 0; w < kGroupWarps; ++w, from += kProgramTileRows) {
          const float2 part = *reinterpret_cast<const float2*>(from);
          value.x += part.x, value.y += part.y;
        }
      }
      value.x *= scale.x, value.y *= scale.y;
    }
    if (linear.sum_count > 0 && linear.head_shift < 0) {
      float total = 0.0f;
#pragma unroll
      for (int w = 0; w < kComputeWarps; ++w) total += block.of_parts[w];
      const float factor = rsqrtf(total * linear.inverse_size + linear.eps);
      value.x *= factor, value.y *= factor;
    }
    int column = (share.begin + first + my_tile) * kProgramTileRows + my_pair;
    bool stores = my_tile < tiles;
    if (linear.output == Output::kSwiGlu) {
      const auto gated = [](float gate, float up) {
        return gate * Sigmoid<__nv_bfloat16>(gate) * up;
      };
      const float2 up =
          make_float2(__shfl_down_sync(~0u, value.x, 2), __shfl_down_sync(~0u, value.y, 2));
      value = make_float2(gated(value.x, up.x), gated(value.y, up.y));
      column = (share.begin + first + my_tile) * (kProgramTileRows / 2) + my_pair;
      stores = stores && my_pair < kProgramTileRows / 2;
    }
    stores = stores && column < linear.out;
    if (linear.output == Output::kAdd) {
      if (warp == 0) {
        float2& residual = block.residual;
        residual.x += value.x, residual.y += value.y;
        PutResidual(residual, stores, column, next_norm, op.to, linear.next_sums, number + 1);
      }
    } else if (linear.output == Output::kLogits) {
      if (stores) *reinterpret_cast<float2*>(linear.logits + column) = value;
    } else if (stores) {
      PutWord(op.to + column / 2, Pack(value.x, value.y), number + 1);
    }
    if (first + tiles < share.count) SyncComputeThreads();
  }
  // Nobody waits for it.
  if (linear.moved_channels > 0) {
    MoveConvolution(op.mixer, linear.moved_channels, block.state_slot, number - 1);
  }
}

// kFp8: there are weights of e4m3.
template <int kKeyDim, bool kFp8>
__global__ void __launch_bounds__(kComputeThreads + 32, 1)
    StepProgramKernel(const ProgramParams p) {
  __shared__ uint64_t full[kProgramMaxSlots], empty[kProgramMaxSlots];
  __shared__ float of_parts[kComputeThreads];
  __shared__ alignas(ProgramOp) char ops[2][sizeof(ProgramOp)];
  __shared__ MixerItem item;
  __shared__ int multiplied;
  // Where a kilobyte begins, in which the swizzle repeats.
  const uint32_t dynamic = SharedAddress(DynamicShared());
  char* const ring = DynamicShared() + (kRingAlignment - dynamic % kRingAlignment) % kRingAlignment;
  char* const behind_ring = ring + p.slots * kProgramSlotBytes;
  Block block;
  block.ring = {ring, SharedAddress(ring), SharedAddress(full), SharedAddress(empty), p.slots};
  block.staged = behind_ring;
  block.mixer = reinterpret_cast<MixerShared*>(behind_ring + p.staging_bytes);
  block.sums = reinterpret_cast<float*>(behind_ring + p.staging_bytes + sizeof(MixerShared));
  block.of_parts = of_parts;
  block.multiplied = &multiplied;
  block.first_item = &item;
  block.state_slot = *p.state_slot;

  if (threadIdx.x == 0) {
    for (int i = 0; i < p.slots; ++i) {
      InitBarrier(SharedAddress(full + i), 1);
      InitBarrier(SharedAddress(empty + i), kRingReleases);
    }
    multiplied = -1;
    PublishBarriers();
    if (blockIdx.x < p.items) item = p.plan[blockIdx.x];
  }
  __syncthreads();
  if (threadIdx.x >= kComputeThreads) {
    if (threadIdx.x == kComputeThreads) CopyAll(p, block);
    return;
  }

  const auto copy_op = [&](int o) {
    static_assert(sizeof(ProgramOp) % 16 == 0 && sizeof(ProgramOp) / 16 <= kComputeThreads);
    if (threadIdx.x >= sizeof(ProgramOp) / 16) return;
    const int at = 16 * static_cast<int>(threadIdx.x);
    CopyAsync(SharedAddress(&ops[o % 2]) + at, reinterpret_cast<const char*>(p.ops + o) + at, true);
  };
  // All blocks read the count before the first can write it: the last linear waits for them.
  const auto number = static_cast<uint32_t>(*p.launches * (p.count + 1) + 1);
  copy_op(0);
  // The residual stream: every block has its share of it in registers, as RunLinear has outputs.
  const Share share = ShareOf(p.residual_base, p.residual_rest);
  const int column = share.begin * kProgramTileRows + 2 * static_cast<int>(threadIdx.x);
  const bool has_residual =
      threadIdx.x < share.count * kProgramTileRows / 2 && column < p.residual_columns;
  float2 norm = make_float2(0.0f, 0.0f);
  if (has_residual) {
    block.residual = *reinterpret_cast<const float2*>(p.residual + column);
    norm = __ldg(reinterpret_cast<const float2*>(p.residual_norm + column));
  }
  if (threadIdx.x < 32) {
    PutResidual(block.residual, has_residual, column, norm, p.residual_words, p.residual_sums,
                number);
  }
#pragma unroll 1
  for (int o = 0; o < p.count; ++o) {
    CommitCopies();
    WaitForCopies<0>();
    SyncComputeThreads();
    if (o + 1 < p.count) copy_op(o + 1);
    const ProgramOp& op = reinterpret_cast<const ProgramOp&>(ops[o % 2]);
    block.op = o;
    if (op.kind == ProgramOp::Kind::kLinear) {
      RunLinear<kFp8>(op, block, number + o);
    } else {
      RunMixer<kKeyDim>(op, block, number + o);
    }
  }
  if (has_residual) *reinterpret_cast<float2*>(p.residual + column) = block.residual;
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.launches += 1;
}

template <bool kFp8>
auto KernelOf(int key_dim) {
  switch (key_dim) {
    case 64:
      return StepProgramKernel<64, kFp8>;
    case 128:
      return StepProgramKernel<128, kFp8>;
    default:
      return StepProgramKernel<256, kFp8>;
  }
}

}  // namespace

int ProgramFixedBytes(int staging_bytes) {
  return kRingAlignment + staging_bytes + static_cast<int>(sizeof(MixerShared)) +
         kProgramSumSlots * kGroupWarps * kProgramTileRows * static_cast<int>(sizeof(float));
}

void LaunchStepProgram(const ProgramParams& params, int blocks, cudaStream_t stream) {
  const auto kernel = params.fp8 ? KernelOf<true>(params.key_dim) : KernelOf<false>(params.key_dim);
  const int shared = params.slots * kProgramSlotBytes + ProgramFixedBytes(params.staging_bytes);
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "cudaFuncSetAttribute");
  Check(LaunchCooperative(kernel, dim3(blocks), dim3(kComputeThreads + 32), shared, stream, params),
        "StepProgramKernel");
}

}  // namespace fla::cuda
