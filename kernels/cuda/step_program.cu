// A decode step of one row as one kernel that stays on the GPU.
//
// Grid: a block a multiprocessor (fewer where a projection has fewer tiles), 8 warps that compute
// and one that copies. Every block walks the same list of ops. It has a share of each op's tiles
// of weights, or of states; what an op makes is handed to all blocks as an exchange
// (exchange.cuh). What tiles a block will need does not depend on anything that the step computes:
// its copying warp brings them, one after the other, to a ring of slots in shared memory, through
// the ends of ops and of layers, so that memory never waits for them. Only so much is on its way
// at a time as memory needs to be busy (kInFlight): what is more stands in the way of the words
// that blocks wait for.
//
// Linear: a warp takes a whole slot, 8 rows of the weight and 1024 inputs, multiplies it with x by
// mma (m16n8k16: x is one of the 16) and leaves its sums in shared memory; when the block's tiles
// are through, its threads add up the pieces.
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

using Input = DecodeLinearArgs::Input;
using Output = DecodeLinearArgs::Output;

constexpr int kInFlight = 2;  // slots whose copies have been started and have not landed
constexpr int kPanel = 64;    // inputs
constexpr int kPanels = kProgramPiece / kPanel;
// Ups lie half a kilobyte off a multiple of one behind the gates: the rows of a pair are then in
// other banks.
constexpr int kHalfTileBytes = kProgramPiece * kProgramTileRows;
constexpr int kUpsOffset = kHalfTileBytes + 512;
constexpr int kSlotBytes = 2 * kHalfTileBytes + 512;
constexpr int kRingAlignment = 1024;

static_assert(kProgramStateRows * kProgramStateColumns * sizeof(float) <= kSlotBytes);

struct Share {
  int begin, count;
};
__device__ __forceinline__ Share ShareOf(int base, int rest) {
  const int b = blockIdx.x;
  return {b * base + min(b, rest), base + (b < rest ? 1 : 0)};
}

// The warp that copies; one of its lanes does.
__device__ __forceinline__ void CopyAll(const ProgramParams& p, const Ring& ring, int state_slot) {
  RingCursor at, landed;
  int on_the_way = 0;
  // The barrier of the next slot, once it is free and little enough is on its way.
  const auto next = [&](uint32_t& target) {
    if (on_the_way < kInFlight) {
      ++on_the_way;
    } else {
      ring.AwaitFull(landed);
      ring.Advance(landed, 1);
    }
    ring.AwaitEmpty(at);
    target = ring.Address(at);
    const uint32_t full = ring.FullBarrier(at);
    ring.Advance(at, 1);
    return full;
  };
  ProgramStream op = p.streams[0], after = op;
  for (int o = 0; o < p.count; ++o, op = after) {
    if (o + 1 < p.count) after = p.streams[o + 1];
    const TileMap& map = p.maps[op.map];
    uint32_t target;
    if (op.items > 0) {
      for (int i = blockIdx.x; i < op.items; i += gridDim.x) {
        if (state_slot < 0) break;
        const MixerItem& item = p.plan[i];
        const int rows = op.key_dim / op.pieces;
        const int first = (state_slot * p.heads + item.head) * op.key_dim;
        for (int piece = 0; piece < op.pieces; ++piece) {
          const uint32_t full = next(target);
          ArriveExpecting(full, rows * kProgramStateColumns * sizeof(float));
          CopyTileToShared(target, map, first + piece * rows, item.slice * kProgramStateColumns,
                           full);
        }
      }
      continue;
    }
    const Share share = ShareOf(op.base, op.rest);
    for (int tile = share.begin; tile < share.begin + share.count; ++tile) {
      for (int piece = 0; piece < op.pieces; ++piece) {
        const uint32_t full = next(target);
        ArriveExpecting(full, 2 * kHalfTileBytes);
        if (op.ups == 0) {
          CopyPanelsToShared(target, map, tile * kProgramTileRows, piece * kPanels, full,
                             kReadOnce);
        } else {
          const int row = tile * (kProgramTileRows / 2);
          CopyPanelsToShared(target, map, row, piece * kPanels, full, kReadOnce);
          CopyPanelsToShared(target + kUpsOffset, map, op.ups + row, piece * kPanels, full,
                             kReadOnce);
        }
      }
    }
  }
}

// x [1024] times weights 2t and 2t + 1 of a slot, in lane t of the first four.
// x_address: of this lane's chunk as ldmatrix wants it, which finds the same x in all eight rows.
template <bool kPairs>
__device__ __forceinline__ float2 MultiplySlot(uint32_t slot, uint32_t x_address) {
  constexpr int kAtOnce = 4;  // panels
  constexpr int kPanelBytes = (kPairs ? kProgramTileRows / 2 : kProgramTileRows) * 2 * kPanel;
  const int lane = threadIdx.x % 32, weight = lane % 8, chunk = lane / 8;
  const uint32_t row = kPairs ? slot + (weight >= 4 ? kUpsOffset : 0) + weight % 4 * 2 * kPanel
                              : slot + weight * 2 * kPanel;
  float even[4] = {}, odd[4] = {};
#pragma unroll 1
  for (int first = 0; first < kPanels; first += kAtOnce) {
    uint32_t w[kAtOnce][2][4], x[kAtOnce][2][4];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const uint32_t at = row + (first + i) * kPanelBytes;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        LoadMatrices(w[i][half], SwizzledChunk(at, chunk + 4 * half));
        LoadMatrices(x[i][half], x_address + ((first + i) * kPanel + 32 * half) * 2);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t(&a)[4] = x[i][half], (&b)[4] = w[i][half];
        MultiplyAdd(even, a[0], 0, a[1], 0, b[0], b[1]);
        MultiplyAdd(odd, a[2], 0, a[3], 0, b[2], b[3]);
      }
    }
  }
  return make_float2(even[0] + odd[0], even[1] + odd[1]);
}

constexpr int kPairsAtOnce = 4;
// How many of `begin`, `begin` + step ... lie before `end`, of those at once.
__device__ __forceinline__ int CountOf(int begin, int step, int end) {
  int count = 0;
#pragma unroll
  for (int i = 0; i < kPairsAtOnce; ++i) count += begin + i * step < end ? 1 : 0;
  return count;
}

// The residual times the norm's weights; the root mean square is divided out of the sums.
__device__ __forceinline__ void StageNormed(const ProgramOp& op, Block& block, uint32_t number) {
  constexpr int kStep = 2 * kComputeThreads;
  const int in = static_cast<int>(op.linear.args.x.cols);
  const float* const weights = op.linear.args.norm_weight;
  float sum = 0.0f;
#pragma unroll 1
  for (int begin = 2 * threadIdx.x; begin < in; begin += kPairsAtOnce * kStep) {
    const int count = CountOf(begin, kStep, in);
    float2 scale[kPairsAtOnce];
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      if (i < count) scale[i] = __ldg(reinterpret_cast<const float2*>(weights + begin + i * kStep));
    }
    uint2 pairs[kPairsAtOnce];
    AwaitPairs(op.from + begin, kStep, count, number, pairs);
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      if (i >= count) break;
      const float a = __uint_as_float(pairs[i].x), b = __uint_as_float(pairs[i].y);
      sum += a * a + b * b;
      *reinterpret_cast<uint32_t*>(block.staged + begin + i * kStep) =
          Pack(a * scale[i].x, b * scale[i].y);
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) block.squares[threadIdx.x / 32] = sum;
}

// bf16 pairs as they are.
__device__ __forceinline__ void StagePlain(const ProgramOp& op, Block& block, uint32_t number) {
  constexpr int kStep = 2 * kComputeThreads;
  const int words = static_cast<int>(op.linear.args.x.cols) / 2;
#pragma unroll 1
  for (int begin = 2 * threadIdx.x; begin < words; begin += kPairsAtOnce * kStep) {
    const int count = CountOf(begin, kStep, words);
    uint2 pairs[kPairsAtOnce];
    AwaitPairs(op.from + begin, kStep, count, number, pairs);
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      if (i < count) *reinterpret_cast<uint2*>(block.staged + 2 * (begin + i * kStep)) = pairs[i];
    }
  }
}

// OutputNorm of the recurrence's output: a warp has a head.
__device__ __forceinline__ void StageHeads(const ProgramOp& op, Block& block, uint32_t number) {
  const DecodeLinearArgs& args = op.linear.args;
  const int lane = threadIdx.x % 32, words = args.head_dim / 2;
  const bool has_weights = args.normalize && args.norm_weight != nullptr;
  const bool gated = op.linear.gate != nullptr;
  const bool silu = args.gate_activation == Activation::kSilu;
  const int count = CountOf(2 * lane, 64, words);
#pragma unroll 1
  for (int head = threadIdx.x / 32; head < op.linear.heads; head += kComputeWarps) {
    uint2 values[kPairsAtOnce], gates[kPairsAtOnce];
    float4 weights[kPairsAtOnce];
    if (has_weights) {
#pragma unroll
      for (int i = 0; i < kPairsAtOnce; ++i) {
        if (i < count) {
          weights[i] =
              __ldg(reinterpret_cast<const float4*>(args.norm_weight + 2 * (2 * lane + 64 * i)));
        }
      }
    }
    if (gated) {
      AwaitPairs(op.linear.gate + head * words + 2 * lane, 64, count, number - 1, gates);
    }
    AwaitPairs(op.from + head * words + 2 * lane, 64, count, number, values);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      if (i >= count) break;
      const float a = Low(values[i].x), b = High(values[i].x), c = Low(values[i].y),
                  d = High(values[i].y);
      sum += a * a + b * b + c * c + d * d;
    }
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    const float factor = args.normalize
                             ? rsqrtf(__fdividef(sum, static_cast<float>(args.head_dim)) + args.eps)
                             : 1.0f;
    const auto gate_of = [silu](float x) { return Sigmoid<__nv_bfloat16>(x) * (silu ? x : 1.0f); };
#pragma unroll
    for (int i = 0; i < kPairsAtOnce; ++i) {
      if (i >= count) break;
      float4 x =
          make_float4(Low(values[i].x), High(values[i].x), Low(values[i].y), High(values[i].y));
      x.x *= factor, x.y *= factor, x.z *= factor, x.w *= factor;
      if (has_weights) {
        x.x *= weights[i].x, x.y *= weights[i].y, x.z *= weights[i].z, x.w *= weights[i].w;
      }
      if (gated) {
        x.x *= gate_of(Low(gates[i].x)), x.y *= gate_of(High(gates[i].x));
        x.z *= gate_of(Low(gates[i].y)), x.w *= gate_of(High(gates[i].y));
      }
      *reinterpret_cast<uint2*>(block.staged + head * args.head_dim + 2 * (2 * lane + 64 * i)) =
          make_uint2(Pack(x.x, x.y), Pack(x.z, x.w));
    }
  }
}

// Two neighbouring outputs. ups: kSwiGlu.
__device__ __forceinline__ void StoreOutputs(const ProgramOp& op, Block& block, int column,
                                             float2 value, float2 ups, uint32_t number) {
  switch (op.linear.args.output) {
    case Output::kSwiGlu: {
      const auto gated = [](float gate, float up) {
        return gate * Sigmoid<__nv_bfloat16>(gate) * up;
      };
      PutWord(op.to + column / 2, Pack(gated(value.x, ups.x), gated(value.y, ups.y)), number);
      return;
    }
    case Output::kAdd: {
      float2& sum = block.residual;
      sum.x += value.x, sum.y += value.y;
      PutWord(op.to + column, __float_as_uint(sum.x), number);
      PutWord(op.to + column + 1, __float_as_uint(sum.y), number);
      return;
    }
    case Output::kStore:
      if (op.to != nullptr) {
        PutWord(op.to + column / 2, Pack(value.x, value.y), number);
      } else {
        auto* const out = static_cast<float*>(op.linear.args.out.data);
        *reinterpret_cast<float2*>(out + column) = value;
      }
      return;
  }
}

// number: of the words that the op before wrote; this one's are number + 1.
__device__ __forceinline__ void RunLinear(const ProgramOp& op, Block& block, uint32_t number) {
  const DecodeLinearArgs& args = op.linear.args;
  const int in = static_cast<int>(args.x.cols), out = static_cast<int>(args.out.cols);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool paired = args.output == Output::kSwiGlu;
  const int rows_of_tile = paired ? kProgramTileRows / 2 : kProgramTileRows;
  const int pieces = op.linear.pieces, padded = pieces * kProgramPiece;
  const Share share = ShareOf(op.linear.base, op.linear.rest);

  switch (args.input) {
    case Input::kNormed:
      StageNormed(op, block, number);
      break;
    case Input::kPlain:
      StagePlain(op, block, number);
      break;
    case Input::kHeadsNormed:
      StageHeads(op, block, number);
      break;
  }
  for (int column = in + 2 * threadIdx.x; column < padded; column += 2 * kComputeThreads) {
    *reinterpret_cast<uint32_t*>(block.staged + column) = 0;
  }
  SyncComputeThreads();

  const bool moves_convolution = args.input == Input::kHeadsNormed;
  MovedChannel moved;
  if (moves_convolution) moved = LoadMovedChannel(op.mixer, block.state_slot, number - 1);
  if (op.linear.before_mixer) PrefetchMixer(op.mixer, block);
  float factor = 1.0f;
  if (args.input == Input::kNormed) {
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kComputeWarps; ++w) total += block.squares[w];
    factor = rsqrtf(__fdividef(total, static_cast<float>(in)) + args.eps);
  }

  // A thread finishes two neighbouring outputs of a tile.
  const int my_tile = static_cast<int>(threadIdx.x) >> (paired ? 1 : 2);
  const int my_pair = 2 * (static_cast<int>(threadIdx.x) & (paired ? 1 : 3));
  const uint32_t x_address = SharedAddress(block.staged + lane / 8 * 8);
#pragma unroll 1
  for (int first = 0; first < share.count; first += op.linear.tiles_at_once) {
    const int tiles = min(op.linear.tiles_at_once, share.count - first), slots = tiles * pieces;
    RingCursor at = block.cursor;
    block.ring.Advance(at, warp);
    int piece = warp;
#pragma unroll 1
    for (int i = warp; i < slots; i += kComputeWarps) {
      while (piece >= pieces) piece -= pieces;
      block.ring.AwaitFull(at);
      const uint32_t x = x_address + piece * kProgramPiece * 2;
      const uint32_t slot = block.ring.Address(at);
      const float2 sum = paired ? MultiplySlot<true>(slot, x) : MultiplySlot<false>(slot, x);
      __syncwarp();
      if (lane == 0) block.ring.Release(at);
      if (lane < 4) {
        *reinterpret_cast<float2*>(block.sums + i * kProgramTileRows + 2 * lane) = sum;
      }
      block.ring.Advance(at, kComputeWarps);
      piece += kComputeWarps;
    }
    block.ring.Advance(block.cursor, slots);
    SyncComputeThreads();

    const int column = (share.begin + first + my_tile) * rows_of_tile + my_pair;
    if (my_tile < tiles && column < out) {
      float2 value = make_float2(0.0f, 0.0f), ups = value;
      const float* from = block.sums + my_tile * pieces * kProgramTileRows + my_pair;
      for (int i = 0; i < pieces; ++i, from += kProgramTileRows) {
        const float2 part = *reinterpret_cast<const float2*>(from);
        value.x += part.x, value.y += part.y;
        if (paired) {
          const float2 up = *reinterpret_cast<const float2*>(from + rows_of_tile);
          ups.x += up.x, ups.y += up.y;
        }
      }
      StoreOutputs(op, block, column, make_float2(value.x * factor, value.y * factor),
                   make_float2(ups.x * factor, ups.y * factor), number + 1);
    }
    if (first + tiles < share.count) SyncComputeThreads();
  }
  if (moves_convolution) StoreMovedChannel(op.mixer, moved);
}

template <int kKeyDim>
__global__ void __launch_bounds__(kComputeThreads + 32, 1)
    StepProgramKernel(const ProgramParams p) {
  __shared__ uint64_t full[kProgramMaxSlots], empty[kProgramMaxSlots];
  __shared__ float squares[kComputeWarps];
  __shared__ alignas(ProgramOp) char ops[2][sizeof(ProgramOp)];
  __shared__ MixerItem item;
  // Where a kilobyte begins, in which the swizzle repeats.
  const uint32_t dynamic = SharedAddress(DynamicShared());
  char* const ring = DynamicShared() + (kRingAlignment - dynamic % kRingAlignment) % kRingAlignment;
  char* const behind_ring = ring + p.slots * kSlotBytes;
  Block block;
  block.ring = {ring,    SharedAddress(ring), SharedAddress(full), SharedAddress(empty),
                p.slots, kSlotBytes};
  block.staged = reinterpret_cast<__nv_bfloat16*>(behind_ring);
  block.mixer = reinterpret_cast<MixerShared*>(behind_ring);
  block.sums = reinterpret_cast<float*>(behind_ring + p.staging_bytes);
  block.squares = squares;
  block.first_item = &item;
  block.state_slot = *p.state_slot;

  if (threadIdx.x == 0) {
    for (int i = 0; i < p.slots; ++i) {
      InitBarrier(SharedAddress(full + i), 1);
      InitBarrier(SharedAddress(empty + i), 1);
    }
    PublishBarriers();
    if (blockIdx.x < p.items) item = p.plan[blockIdx.x];
  }
  __syncthreads();
  if (threadIdx.x >= kComputeThreads) {
    if (threadIdx.x == kComputeThreads) CopyAll(p, block.ring, block.state_slot);
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
  if (has_residual) {
    block.residual = *reinterpret_cast<const float2*>(p.residual + column);
    PutWord(p.residual_words + column, __float_as_uint(block.residual.x), number);
    PutWord(p.residual_words + column + 1, __float_as_uint(block.residual.y), number);
  }
#pragma unroll 1
  for (int o = 0; o < p.count; ++o) {
    CommitCopies();
    WaitForCopies<0>();
    SyncComputeThreads();
    if (o + 1 < p.count) copy_op(o + 1);
    const ProgramOp& op = reinterpret_cast<const ProgramOp&>(ops[o % 2]);
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
  return kRingAlignment + staging_bytes +
         kProgramSumSlots * kProgramTileRows * static_cast<int>(sizeof(float));
}
int ProgramSlotBytes() { return kSlotBytes; }
int ProgramMixerBytes() { return sizeof(MixerShared); }

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
  const int shared = params.slots * kSlotBytes + ProgramFixedBytes(params.staging_bytes);
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
