// A decode step of one row as one kernel that stays on the GPU.
//
// Grid: a block a multiprocessor (fewer where a projection has fewer tiles), 8 warps that compute
// and one that copies. Every block walks the same list of ops. It has a share of each op's tiles
// of weights, or of states; what an op makes is handed to all blocks as an exchange
// (exchange.cuh). What tiles a block will need does not depend on anything that the step computes:
// its copying warp brings them, one after the other, to a ring of slots in shared memory, through
// the ends of ops and of layers, so that memory never waits for them. Only so much is on its way
// at a time as memory needs to be busy, and less of what is not yet multiplied (kInFlightAhead):
// what is more stands in the way of the words that blocks wait for.
//
// Linear: a warp takes a whole slot, 8 rows of the weight and 1024 inputs, multiplies it with x by
// mma and leaves its sums in shared memory; when the block's tiles are through, its threads add up
// the pieces. A layer's norms are never a step of their own: their weights are in the words of
// their input, whose squares are added up where they are made.
//
// No buffer of an exchange is written before all have read what was there: a block writes op o's
// words after it has read all of op o - 1's, which are complete only when every block has done
// op o - 1, and every block has tiles of every linear.
#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/step_program.h"
#include "kernels/cuda/step_program_block.cuh"
#include "kernels/cuda/step_program_mixer.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace fla::cuda {
namespace {

using Output = ProgramLinear::Output;

// Slots whose copies have been started and have not landed, at most, where they are for an op after
// the one that the block multiplies: words that it waits for would stand in line behind more. Of
// the op itself: ProgramParams::in_flight.
constexpr int kInFlightAhead = 2;
constexpr int kPanel = 64;  // inputs
constexpr int kPanels = kProgramPiece / kPanel;
constexpr int kRingAlignment = 1024;

static_assert(kProgramTileRows * kProgramPiece * sizeof(__nv_bfloat16) == kProgramSlotBytes);
static_assert(kProgramStateRows * kProgramStateColumns * sizeof(float) <= kProgramSlotBytes);

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
        while (on_the_way >= (atomicAdd(block.multiplied, 0) == o ? p.in_flight : kInFlightAhead)) {
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

// A piece of x in registers, as the products of a slot want it.
struct XPiece {
  // Set where it is declared: what is set on some paths only would be taken throughout the kernel.
  uint32_t panels[kPanels][4] = {};

  __device__ __forceinline__ void Load(const Block& block, int piece, int lane) {
    const int matrix = lane / 8, chunk = matrix / 2 * 4 + matrix % 2 + lane % 2 * 2;
    const uint32_t from = SharedAddress(block.staged + piece * kProgramPiece + 8 * chunk);
#pragma unroll
    for (int i = 0; i < kPanels; ++i) LoadMatrices(panels[i], from + i * kPanel * 2);
  }
};

// Row l / 4 of a slot's weights [8, 1024] times x, in lanes l % 4 = 0.
//
// By m16n8k16, a product of which has room for 16 rows and 8 vectors: its lower rows are the same
// weights 16 inputs further on, and its second vector is x from there. Their two other products and
// those with the six vectors that nobody has set are left alone.
__device__ __forceinline__ float MultiplySlot(int lane, uint32_t slot, const XPiece& x) {
  constexpr int kAtOnce = 2;  // panels
  constexpr int kPanelBytes = kProgramTileRows * 2 * kPanel;
  const int matrix = lane / 8;
  const int chunk = matrix / 2 + matrix % 2 * 2;
  const uint32_t row = slot + lane % 8 * 2 * kPanel;
  const uint32_t rows[2] = {SwizzledChunk(row, chunk), SwizzledChunk(row, chunk + 4)};
  // A warp that is the last to come is bound by the chain of its products.
  float sums[kAtOnce][2][4] = {};
#pragma unroll
  for (int first = 0; first < kPanels; first += kAtOnce) {
    uint32_t w[kAtOnce][2][4];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      LoadMatrices(w[i][0], rows[0] + (first + i) * kPanelBytes);
      LoadMatrices(w[i][1], rows[1] + (first + i) * kPanelBytes);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const uint32_t(&b)[4] = x.panels[first + i];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t(&a)[4] = w[i][half];
        MultiplyAdd(sums[i][half], a[0], a[1], a[2], a[3], b[2 * half], b[2 * half + 1]);
      }
    }
  }
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    total += (sums[i][0][0] + sums[i][0][3]) + (sums[i][1][0] + sums[i][1][3]);
  }
  return total;
}

__device__ __forceinline__ float SumOfLanes(float x, int lanes) {
#pragma unroll 1
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

// The input to shared memory. Where a head's norm is its own, heads are multiplied by it here; what
// is one norm's is left in block.of_parts, a warp's sum each, and multiplied into the outputs.
__device__ __forceinline__ void Stage(const ProgramOp& op, Block& block, uint32_t number) {
  constexpr int kPairsAtOnce = 6;
  constexpr int kStep = kComputeThreads;  // pairs
  const ProgramLinear& linear = op.linear;
  const int thread = ThreadOfBlock();
  const bool by_head = linear.head_shift >= 0;
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
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      if (i >= count) break;
      const int pair = begin + i * kStep;
      uint2 x = pairs[i];
      if (by_head) {
        const float factor = block.of_parts[pair >> linear.head_shift];
        x = make_uint2(Pack(Low(x.x) * factor, High(x.x) * factor),
                       Pack(Low(x.y) * factor, High(x.y) * factor));
      }
      *reinterpret_cast<uint2*>(block.staged + 4 * pair) = x;
    }
  }
  // Behind the input, where the last piece ends.
#pragma unroll 1
  for (int pair = linear.in_pairs + thread; pair < linear.pieces * kProgramPiece / 4;
       pair += kStep) {
    *reinterpret_cast<uint2*>(block.staged + 4 * pair) = make_uint2(0, 0);
  }
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

// number: of the words that the op before wrote; this one's are number + 1.
__device__ __forceinline__ void RunLinear(const ProgramOp& op, Block& block, uint32_t number) {
  const ProgramLinear& linear = op.linear;
  const int thread = ThreadOfBlock(), lane = thread % 32, warp = thread / 32;
  const int pieces = linear.pieces;
  const Share share = ShareOf(linear.base, linear.rest);

  Stage(op, block, number);
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
    RingCursor at = block.cursor;
    block.ring.Advance(at, warp);
    int piece = warp, loaded = -1;
    XPiece x;
#pragma unroll 1
    for (int i = warp; i < slots; i += kComputeWarps) {
#pragma unroll 1
      while (piece >= pieces) piece -= pieces;
      if (piece != loaded) x.Load(block, piece, lane), loaded = piece;
      block.ring.AwaitFull(at);
      const float sum = MultiplySlot(lane, block.ring.Address(at), x);
      __syncwarp();
      if (lane == 0) block.ring.Release(at);
      if (lane % 4 == 0) block.sums[i * kProgramTileRows + lane / 4] = sum;
      block.ring.Advance(at, kComputeWarps);
      piece += kComputeWarps;
    }
    block.ring.Advance(block.cursor, slots);
    SyncComputeThreads();

    // A thread finishes two neighbouring rows of a tile.
    const int my_tile = thread / 4;
    const int my_pair = 2 * (thread % 4);
    float2 value = make_float2(0.0f, 0.0f);
    if (my_tile < tiles) {
      const float* from = block.sums + my_tile * pieces * kProgramTileRows + my_pair;
#pragma unroll 1
      for (int i = 0; i < pieces; ++i, from += kProgramTileRows) {
        const float2 part = *reinterpret_cast<const float2*>(from);
        value.x += part.x, value.y += part.y;
      }
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

template <int kKeyDim>
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
  block.staged = reinterpret_cast<__nv_bfloat16*>(behind_ring);
  block.mixer = reinterpret_cast<MixerShared*>(behind_ring + p.staging_bytes);
  block.sums = reinterpret_cast<float*>(behind_ring + p.staging_bytes + sizeof(MixerShared));
  block.of_parts = of_parts;
  block.multiplied = &multiplied;
  block.first_item = &item;
  block.state_slot = *p.state_slot;

  if (threadIdx.x == 0) {
    for (int i = 0; i < p.slots; ++i) {
      InitBarrier(SharedAddress(full + i), 1);
      InitBarrier(SharedAddress(empty + i), 1);
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
      RunLinear(op, block, number + o);
    } else {
      RunMixer<kKeyDim>(op, block, number + o);
    }
  }
  if (has_residual) *reinterpret_cast<float2*>(p.residual + column) = block.residual;
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.launches += 1;
}

}  // namespace

int ProgramFixedBytes(int staging_bytes) {
  return kRingAlignment + staging_bytes + static_cast<int>(sizeof(MixerShared)) +
         kProgramSumSlots * kProgramTileRows * static_cast<int>(sizeof(float));
}

void LaunchStepProgram(const ProgramParams& params, int blocks, cudaStream_t stream) {
  const auto kernel = [&] {
    switch (params.key_dim) {
      case 64:
        return StepProgramKernel<64>;
      case 128:
        return StepProgramKernel<128>;
      default:
        return StepProgramKernel<256>;
    }
  }();
  const int shared = params.slots * kProgramSlotBytes + ProgramFixedBytes(params.staging_bytes);
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "cudaFuncSetAttribute");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(kComputeThreads + 32);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  // Blocks wait for each other: either all of them run or none does.
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  Check(cudaLaunchKernelEx(&config, kernel, params), "StepProgramKernel");
}

}  // namespace fla::cuda
