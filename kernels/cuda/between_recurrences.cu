// All projections from one recurrence to the next for 33 to 128 tokens on Hopper, as one kernel: a
// short prompt's. They are bound by the reading of their weights, and as kernels of their own they
// cannot read while one of them ends and the next begins.
//
// Two halves, each a product onto the residual stream (output, down), its norm, and a wide product
// of that (gate and up with SwiGlu, next). All blocks stay for the whole kernel and wait for each
// other between these, five times.
//
// One warp of a block does nothing but ask for the weights of all of its tiles, one after the
// other, into a ring: it waits for nothing else, so memory is busy while blocks wait for each
// other. Another brings x, 64 inputs at a time. The blocks of a cluster multiply the same inputs
// with neighbouring tiles and each has the copy engine bring a quarter of x to all of them. Two
// warpgroups multiply, 64 tokens each.
//
// There are too few tiles of a narrow product, onto the residual stream, to go round: its inputs
// are parted, and who norms a token adds up the parts, in their order.
#include <algorithm>

#include "kernels/cuda/between_recurrences.h"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/grid_barrier.cuh"
#include "kernels/cuda/linear_stage.cuh"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/ring_position.cuh"
#include "kernels/cuda/warp_sum.cuh"

namespace fla::cuda {
namespace {

constexpr int kHalves = 2;
constexpr int kThreads = kConsumers + 2 * 32;
constexpr int kWeightWarp = kConsumers / 32;  // the other one brings x
constexpr int kTokens = kMaxTokensBetweenRecurrences;
static_assert(kTokens == kGroups * kGroupTokens);
constexpr int kBlocks = kSeamBlocks;
constexpr int kShareTokens = kTokens / kBlocks;  // of x that a block brings
constexpr int kShareBytes = kShareTokens * kRowBytes;

// The rings.
constexpr int kSlots = 8, kSlotBytes = kSeamPairedRows * kRowBytes;  // of weights
constexpr int kStages = 6;                                           // of x
static_assert(kSlotBytes % kPanelAlignment == 0 && kShareBytes % kPanelAlignment == 0);
static_assert(kSeamNarrowRows <= kSeamPairedRows);

constexpr int kMaxOutColumns = 80;
constexpr int kOutBytes = kTokens * OutPitch(kMaxOutColumns);
constexpr int kShared = kPanelAlignment + kSlots * kSlotBytes + kStages * kInputBytes + kOutBytes;
static_assert(kShared <= 227 * 1024 - 1024);

struct Half {
  TileMap x, narrow, wide;  // maps of the narrow product's inputs, and of both weights
  int runs;                 // of the narrow product's inputs
  int wide_tiles;
  const float* norm;
  Matrix out;  // of the wide product
};

struct SeamParams {
  Half halves[kHalves];
  TileMap normed_map;
  int tokens, columns;  // of the residual stream
  int parts;            // of a narrow product's inputs
  float eps;
  Matrix residual, normed;
  float* partials;  // [parts, kTokens, columns]
  unsigned* arrivals;
};

// Where a block's tiles are, in the order in which all its warps go through them: quads of
// neighbouring tiles of one part, a block of the cluster each.
struct Tiles {
  int first, step, quads, parts;

  __device__ __forceinline__ bool Any() const { return first < quads; }
  __device__ __forceinline__ int Part(int quad) const { return quad % parts; }
  __device__ __forceinline__ int Tile(int quad) const {
    return quad / parts * kBlocks + blockIdx.x % kBlocks;
  }
};
__device__ __forceinline__ Tiles NarrowTiles(const SeamParams& p) {
  const int quads = DivideUp(p.columns, kSeamNarrowRows * kBlocks) * p.parts;
  return {static_cast<int>(blockIdx.x) / kBlocks, static_cast<int>(gridDim.x) / kBlocks, quads,
          p.parts};
}
__device__ __forceinline__ Tiles WideTiles(const Half& half) {
  return {static_cast<int>(blockIdx.x) / kBlocks, static_cast<int>(gridDim.x) / kBlocks,
          DivideUp(half.wide_tiles, kBlocks), 1};
}

struct Rings {
  uint32_t weights, inputs;         // their memory
  uint32_t full_slots, free_slots;  // barriers, 8 bytes each
  uint32_t full_stages, free_stages;

  __device__ __forceinline__ uint32_t Slot(int i) const { return weights + i * kSlotBytes; }
  __device__ __forceinline__ uint32_t Stage(int i) const { return inputs + i * kInputBytes; }
};

// Calls f(tile, part, its first run, its end) for all of this block's tiles.
template <typename F>
__device__ __forceinline__ void ForTiles(const SeamParams& p, int half, bool narrow, F f) {
  const Tiles tiles = narrow ? NarrowTiles(p) : WideTiles(p.halves[half]);
  const int runs = narrow ? p.halves[half].runs : DivideUp(p.columns, kRun);
  for (int quad = tiles.first; quad < tiles.quads; quad += tiles.step) {
    const int part = tiles.Part(quad);
    f(tiles.Tile(quad), part, runs * part / tiles.parts, runs * (part + 1) / tiles.parts);
  }
}

// Warpgroups that have tokens.
__device__ __forceinline__ int GroupsOf(const SeamParams& p) {
  return p.tokens > kGroupTokens ? kGroups : 1;
}

template <int kNextRows>
__device__ __forceinline__ void LoadWeights(const SeamParams& p, const Rings& rings) {
  RingPosition at;
  for (int half = 0; half < kHalves; ++half) {
    PrefetchTileMap(p.halves[half].narrow);
    PrefetchTileMap(p.halves[half].wide);
  }
#pragma unroll 1
  for (int step = 0; step < 2 * kHalves; ++step) {
    const int half = step / 2;
    const bool narrow = step % 2 == 0;
    const Half& of = p.halves[half];
    const int rows = narrow ? kSeamNarrowRows : half == 0 ? kSeamPairedRows : kNextRows;
    ForTiles(p, half, narrow, [&](int tile, int, int first, int end) {
#pragma unroll 1
      for (int run = first; run < end; ++run, at.Advance(kSlots)) {
        const uint32_t full = rings.full_slots + 8 * at.stage;
        Wait(rings.free_slots + 8 * at.stage, at.parity ^ 1);
        ArriveExpecting(full, rows * kRowBytes);
        if (!narrow && half == 0) {
          CopyPairedPanelToShared(rings.Slot(at.stage), of.wide, tile * kSeamPairedRows / 2,
                                  run * kRun, full, kReadOnce);
        } else {
          CopyPanelToShared(rings.Slot(at.stage), narrow ? of.narrow : of.wide, tile * rows,
                            run * kRun, full, kReadOnce);
        }
      }
    });
  }
  BeginNextKernel();
}

__device__ __forceinline__ void LoadInputs(const SeamParams& p, const Rings& rings) {
  const int share = blockIdx.x % kBlocks, groups = GroupsOf(p);
  RingPosition at;
  PrefetchTileMap(p.halves[0].x);
  PrefetchTileMap(p.halves[1].x);
  PrefetchTileMap(p.normed_map);
  AwaitPreviousKernel();
#pragma unroll 1
  for (int step = 0; step < 2 * kHalves; ++step) {
    const int half = step / 2;
    const bool narrow = step % 2 == 0;
    // A block without tiles must not look: the last arrival may come before it does.
    if (!(narrow ? NarrowTiles(p) : WideTiles(p.halves[half])).Any()) continue;
    // Behind the norm, or behind the first half.
    if (step > 0) AwaitArrivals(p.arrivals, (3 * half + (narrow ? 0 : 2)) * gridDim.x);
    SeeWithCopies();
    const TileMap& map = narrow ? p.halves[half].x : p.normed_map;
    ForTiles(p, half, narrow, [&](int, int, int first, int end) {
#pragma unroll 1
      for (int run = first; run < end; ++run, at.Advance(kStages)) {
        const uint32_t full = rings.full_stages + 8 * at.stage;
        Wait(rings.free_stages + 8 * at.stage, at.parity ^ 1);
        ArriveExpecting(full, groups * kGroupTokens * kRowBytes);
        if (share * kShareTokens >= groups * kGroupTokens) continue;
        CopyPanelToBlocks(rings.Stage(at.stage) + share * kShareBytes, map, share * kShareTokens,
                          run * kRun, full, (1 << kBlocks) - 1, kReadByAll);
      }
    });
  }
}

// What the multiplying warps share.
struct Consumer {
  const SeamParams& p;
  const Rings& rings;
  RingPosition slot, stage;

  __device__ __forceinline__ static int Group() { return threadIdx.x / kGroupThreads; }
  __device__ __forceinline__ static int Lane() { return threadIdx.x % 32; }

  // Those read so far of all blocks' copies to this one's stage wait for it.
  __device__ __forceinline__ void Release(int slot_read, int stage_read) const {
    if (Lane() == 0) Arrive(rings.free_slots + 8 * slot_read);
    if (Lane() < kBlocks) ArriveAtBlock(Lane(), rings.free_stages + 8 * stage_read);
  }

  // sums += x W^T of the group's tokens and a tile. (Zeroed by whom they belong to, they take
  // registers for no longer than they live.)
  template <int kTiles>
  __device__ __forceinline__ void Multiply(int runs, float (&sums)[kTiles][4]) {
    if (Group() >= GroupsOf(p)) return PassBy(runs);
    int last_slot = 0, last_stage = 0;
#pragma unroll 1
    for (int run = 0; run < runs; ++run) {
      Wait(rings.full_slots + 8 * slot.stage, slot.parity);
      Wait(rings.full_stages + 8 * stage.stage, stage.parity);
      MultiplyPanels(rings.Stage(stage.stage), rings.Slot(slot.stage), Group(), true, sums);
      if (run > 0) Release(last_slot, last_stage);
      last_slot = slot.stage;
      last_stage = stage.stage;
      slot.Advance(kSlots);
      stage.Advance(kStages);
    }
    WaitForProducts<0>();
    Settle(sums);
    if (runs > 0) Release(last_slot, last_stage);
  }

  // As a group without tokens.
  __device__ __forceinline__ void PassBy(int runs) {
#pragma unroll 1
    for (int run = 0; run < runs; ++run) {
      Wait(rings.full_slots + 8 * slot.stage, slot.parity);
      Wait(rings.full_stages + 8 * stage.stage, stage.parity);
      Release(slot.stage, stage.stage);
      slot.Advance(kSlots);
      stage.Advance(kStages);
    }
  }

  __device__ __forceinline__ void MultiplyNarrow(int half) {
    ForTiles(p, half, true, [&](int tile, int part, int first, int end) {
      float sums[kSeamNarrowRows / 8][4] = {};
      Multiply(end - first, sums);
      const int token = Group() * kGroupTokens + threadIdx.x % kGroupThreads / 32 * 16 + Lane() / 4;
      const int column = tile * kSeamNarrowRows + Lane() % 4 * 2;
      float* const to = p.partials + (int64_t{part} * kTokens + token) * p.columns + column;
#pragma unroll
      for (int t = 0; t < kSeamNarrowRows / 8; ++t) {
        if (column + 8 * t >= p.columns) break;
        *reinterpret_cast<float2*>(to + 8 * t) = make_float2(sums[t][0], sums[t][1]);
        *reinterpret_cast<float2*>(to + 8 * p.columns + 8 * t) =
            make_float2(sums[t][2], sums[t][3]);
      }
    });
  }

  // residual += the narrow product, normed = its norm: a token a warpgroup, first of all one a
  // block. A thread has 8 columns and as many 8 * kGroupThreads further on. What no other block
  // writes is read before the parts are there.
  __device__ __forceinline__ void Norm(int half, int arrivals) const {
    constexpr int kPasses = kSeamMaxColumns / (8 * kGroupThreads), kWarps = kGroupThreads / 32;
    __shared__ float warp_sums[kGroups][kWarps];
    const auto column_of = [&](int pass) {
      return (pass * kGroupThreads + static_cast<int>(threadIdx.x) % kGroupThreads) * 8;
    };
    int token = blockIdx.x + Group() * gridDim.x;
    float values[kPasses][8] = {}, weights[kPasses][8] = {};
    const auto read_own = [&] {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        if (column_of(pass) < p.columns) {
          Load(RowOf<float>(p.residual, token) + column_of(pass), values[pass]);
        }
      }
    };
    if (token < p.tokens) {
      read_own();
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        if (column_of(pass) < p.columns) {
          Load(p.halves[half].norm + column_of(pass), weights[pass]);
        }
      }
    }
    if (threadIdx.x == 0) AwaitArrivals(p.arrivals, arrivals);
    SyncThreads<kConsumers>(1);
    while (token < p.tokens) {
      // All are asked for before any is waited for.
      float4 parts[kPasses][kSeamMaxParts][2] = {};
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        const float* from = p.partials + int64_t{token} * p.columns + column_of(pass);
#pragma unroll
        for (int part = 0; part < kSeamMaxParts; ++part) {
          if (part < p.parts && column_of(pass) < p.columns) {
            parts[pass][part][0] = __ldcg(reinterpret_cast<const float4*>(from));
            parts[pass][part][1] = __ldcg(reinterpret_cast<const float4*>(from) + 1);
          }
          from += int64_t{kTokens} * p.columns;
        }
      }
      float sum = 0.0f;
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        float added[8] = {};
#pragma unroll
        for (int part = 0; part < kSeamMaxParts; ++part) {
          const float4 low = parts[pass][part][0], high = parts[pass][part][1];
          added[0] += low.x, added[1] += low.y, added[2] += low.z, added[3] += low.w;
          added[4] += high.x, added[5] += high.y, added[6] += high.z, added[7] += high.w;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          values[pass][i] += added[i];
          sum += values[pass][i] * values[pass][i];
        }
        if (column_of(pass) < p.columns) {
          Store(RowOf<float>(p.residual, token) + column_of(pass), values[pass]);
        }
      }
      sum = WarpSum(sum);
      if (Lane() == 0) warp_sums[Group()][threadIdx.x / 32 % kWarps] = sum;
      SyncThreads<kGroupThreads>(2 + Group());
      sum = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) sum += warp_sums[Group()][warp];
      SyncThreads<kGroupThreads>(2 + Group());
      const float scale = rsqrtf(sum / static_cast<float>(p.columns) + p.eps);
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        if (column_of(pass) < p.columns) {
          float normed[8];
#pragma unroll
          for (int i = 0; i < 8; ++i) normed[i] = values[pass][i] * scale * weights[pass][i];
          Store(RowOf<__nv_bfloat16>(p.normed, token) + column_of(pass), normed);
        }
      }
      token += kGroups * gridDim.x;
      if (token < p.tokens) read_own();
    }
  }

  // The wide product, by tiles of kRows rows. kSwiGlu: of gates and ups.
  template <bool kSwiGlu, int kRows>
  __device__ __forceinline__ void MultiplyWide(int half, uint32_t staged) {
    constexpr int kColumns = kSwiGlu ? kRows / 2 : kRows;
    static_assert(kColumns <= kMaxOutColumns);
    ForTiles(p, half, false, [&](int tile, int, int first, int end) {
      float sums[kRows / 8][4] = {};
      Multiply(end - first, sums);
      SyncThreads<kGroupThreads>(2 + Group());  // the tile before has left
      StoreTile<kSwiGlu>(p.halves[half].out, p.tokens, tile * kColumns, Group(), staged,
                         2 + Group(), sums);
    });
  }

  // No block may arrive before it knows of all arrivals before that one. To those with tiles the
  // coming of x tells it.
  __device__ __forceinline__ void AwaitIfIdle(const Tiles& tiles, int times) const {
    if (!tiles.Any() && threadIdx.x == 0) {
      AwaitArrivals(p.arrivals, times * gridDim.x);
    }
  }

  // What all of these warps have written is there for who finds so many arrivals.
  __device__ __forceinline__ void ArriveTogether() const {
    ShowToCopies();
    SyncThreads<kConsumers>(1);
    if (threadIdx.x == 0) ArriveAtGrid(p.arrivals);
  }
};

// grid (a multiple of kBlocks; all there at once), cluster (kBlocks), block (kThreads), shared
// kShared
template <int kNextRows>
__global__ void __launch_bounds__(kThreads, 1)
    BetweenRecurrencesKernel(const __grid_constant__ SeamParams p) {
  __shared__ uint64_t barriers[2 * (kSlots + kStages)];
  const uint32_t shared = AlignedForPanels(SharedAddress(DynamicShared()));
  const uint32_t first_barrier = SharedAddress(barriers);
  const Rings rings = {shared,
                       shared + kSlots * kSlotBytes,
                       first_barrier,
                       first_barrier + 8 * kSlots,
                       first_barrier + 16 * kSlots,
                       first_barrier + 16 * kSlots + 8 * kStages};
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; ++i) {
      InitBarrier(rings.full_slots + 8 * i, 1);
      InitBarrier(rings.free_slots + 8 * i, kConsumers / 32);
    }
    for (int i = 0; i < kStages; ++i) {
      InitBarrier(rings.full_stages + 8 * i, 1);
      InitBarrier(rings.free_stages + 8 * i, kBlocks * kConsumers / 32);
    }
    PublishBarriers();
  }
  SyncCluster();
  const int warp = threadIdx.x / 32;
  if (warp >= kWeightWarp) {
    if (threadIdx.x % 32 == 0) {
      if (warp == kWeightWarp) {
        LoadWeights<kNextRows>(p, rings);
      } else {
        LoadInputs(p, rings);
      }
    }
    __syncwarp();
  } else {
    AwaitPreviousKernel();
    const uint32_t staged = shared + kSlots * kSlotBytes + kStages * kInputBytes;
    Consumer consumer{p, rings};
#pragma unroll 1
    for (int half = 0; half < kHalves; ++half) {
      consumer.MultiplyNarrow(half);
      consumer.AwaitIfIdle(NarrowTiles(p), 3 * half);
      consumer.ArriveTogether();
      consumer.Norm(half, (3 * half + 1) * gridDim.x);
      consumer.ArriveTogether();
      consumer.AwaitIfIdle(WideTiles(p.halves[half]), 3 * half + 2);
      if (half == 0) {
        consumer.template MultiplyWide<true, kSeamPairedRows>(half, staged);
        consumer.ArriveTogether();
      } else {
        consumer.template MultiplyWide<false, kNextRows>(half, staged);
      }
    }
    // Nobody looks any more: for the next kernel there have been none.
    if (threadIdx.x == 0) ArriveLast(p.arrivals, 6 * gridDim.x);
  }
  SyncCluster();  // no block ends while another may still arrive at its barriers
}

// How many clusters run at once.
template <int kNextRows>
int Clusters() {
  static const int clusters = [] {
    const auto kernel = BetweenRecurrencesKernel<kNextRows>;
    Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
          "cudaFuncSetAttribute");
    return MostClusters(kernel, kBlocks, kThreads, kShared);
  }();
  return clusters;
}

// The plan of these arguments, whose next layer's tiles have kNextRows rows.
template <int kNextRows>
SeamPlan PlanOf(const BetweenRecurrencesArgs& args) {
  return PlanSeam(args.residual.cols, std::min(args.x.cols, args.inner.cols), args.gate_up.rows,
                  args.next.rows, kNextRows, Clusters<kNextRows>());
}

bool IsNextBy64(const BetweenRecurrencesArgs& args) {
  return NextTileRows(args.next.rows, Clusters<64>()) == 64;
}

// The half by those weights; a tile of `wide`, by its map, has so many rows.
Half HalfOf(const Matrix& x, const Matrix& narrow, const float* norm, const Matrix& wide,
            const TileMap& wide_map, int wide_rows, const Matrix& out) {
  return {.x = MakePanelMap(x, kShareTokens),
          .narrow = MakePanelMap(narrow, kSeamNarrowRows),
          .wide = wide_map,
          .runs = DivideUp(x.cols, kRun),
          .wide_tiles = DivideUp(wide.rows, wide_rows),
          .norm = norm,
          .out = out};
}

template <int kNextRows>
void Launch(Stream& stream, const BetweenRecurrencesArgs& args) {
  Stream::CudaContext& context = *stream.cuda();
  const SeamPlan plan = PlanOf<kNextRows>(args);
  SeamParams p = {};
  p.halves[0] =
      HalfOf(args.x, args.output, args.norm, args.gate_up,
             MakePairedPanelMap(args.gate_up, kSeamPairedRows), kSeamPairedRows, args.inner);
  p.halves[1] = HalfOf(args.inner, args.down, args.next_norm, args.next,
                       MakePanelMap(args.next, kNextRows), kNextRows, args.out);
  p.normed_map = MakePanelMap(args.normed, kShareTokens);
  p.tokens = static_cast<int>(args.x.rows);
  p.columns = static_cast<int>(args.residual.cols);
  p.parts = plan.parts;
  p.eps = args.eps;
  p.residual = args.residual;
  p.normed = args.normed;
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  p.partials = context.workspace.as<float>();
  p.arrivals = context.arrivals.as<unsigned>();
  const auto kernel = BetweenRecurrencesKernel<kNextRows>;
  const dim3 grid(plan.clusters * kBlocks);
  Check(context.waits_alone ? LaunchChainedClusters(kernel, grid, dim3(kBlocks), dim3(kThreads),
                                                    kShared, cuda_stream, context.can_chain, p)
                            : LaunchCooperativeClusters(kernel, grid, dim3(kBlocks), dim3(kThreads),
                                                        kShared, cuda_stream, p),
        "BetweenRecurrencesKernel");
}

}  // namespace

static_assert(sizeof(float) * kSeamMaxParts * kTokens * kSeamMaxColumns <=
              Stream::CudaContext::kWorkspaceBytes);

bool TakesBetweenRecurrences(Stream& stream, const BetweenRecurrencesArgs& args) {
  const int64_t tokens = args.x.rows;
  if (tokens < kMinSeamTokens || tokens > kTokens || !IsHopper()) return false;
  for (const Matrix& matrix : {args.x, args.output, args.gate_up, args.down, args.next, args.normed,
                               args.inner, args.out}) {
    if (matrix.dtype != DType::kBF16 || !Vectorizable(matrix.cols, {matrix})) return false;
  }
  if (args.residual.dtype != DType::kF32 || args.residual.cols > kSeamMaxColumns ||
      !Vectorizable(args.residual.cols, {args.residual}) || !IsAligned(args.norm) ||
      !IsAligned(args.next_norm)) {
    return false;
  }
  MakeCurrent(stream);
  return (IsNextBy64(args) ? PlanOf<64>(args) : PlanOf<80>(args)).pays;
}

void BetweenRecurrences(Stream& stream, const BetweenRecurrencesArgs& args) {
  IsNextBy64(args) ? Launch<64>(stream, args) : Launch<80>(stream, args);
}

}  // namespace fla::cuda
