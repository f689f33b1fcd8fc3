// Linear of many rows on Hopper, bound by its products: with SwiGlu behind it, or beside other
// kernels, on a part of the multiprocessors.
//
// A tile is 128 tokens by 256 rows of the weight. Blocks stay, one a multiprocessor, and walk the
// tiles. One warp has the copy engine bring x and weights, 64 inputs at a time, into a ring of
// stages; two warpgroups multiply, 64 tokens each. Weights are written by no kernel: the first of
// them are on their way before the kernel waits for the one before it.
//
// Of many tokens blocks go in pairs, whose tiles are of the same rows: each brings half of these to
// both, a third less from L2. A stage is full when x and both halves are there, and empty when the
// consumers of both blocks are done with it.
//
// SwiGlu is computed between the sums in registers and their way to memory: the tile map lays eight
// gates, eight ups, eight gates, so that a thread has both.
#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/linear_stage.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/ring_position.cuh"
#include "kernels/cuda/widen_weight.h"

namespace fla::cuda {
namespace {

constexpr int kThreads = kLinearThreads;
constexpr int kTileTokens = kPrefillTileTokens, kTileRows = kPrefillTileRows;
static_assert(kTileTokens == kGroups * kGroupTokens && kTileRows == 256);  // of a wgmma
constexpr int kStageBytes = kInputBytes + kTileRows * kRowBytes;
constexpr int kStages = 4;
constexpr int kBand = 32;  // tiles of tokens that are walked together
// Of which blocks go in pairs. Of fewer the half that the last pair may leave empty weighs more.
constexpr int64_t kMinPairTokens = 2048;
constexpr int kOutPanels = 2;  // of a warpgroup, on their way to memory
constexpr int kShared =
    kPanelAlignment + kStages * kStageBytes + kGroups * kOutPanels * kPanelBytes;
static_assert(kStageBytes % kPanelAlignment == 0);
static_assert(kShared <= 227 * 1024 - 256);

struct PrefillLinearParams {
  int runs;                    // stages of a tile
  int token_tiles, row_tiles;  // of a cluster
};

struct Tile {
  int token, row;  // the first
};

// Bands of kBand tiles of tokens, within them the rows: what is read at the same time stays in L2.
// A cluster's blocks have neighbouring tiles of tokens, of which this is the first.
template <int kBlocks>
__device__ __forceinline__ Tile TileOf(const PrefillLinearParams& p, int index) {
  constexpr int kTall = kBand / kBlocks;
  const int band = index / (kTall * p.row_tiles), in_band = index - band * (kTall * p.row_tiles);
  const int height = min(kTall, p.token_tiles - band * kTall);
  const int row = in_band / height, token = band * kTall + in_band - row * height;
  return {token * kBlocks * kTileTokens, row * kTileRows};
}

// One warpgroup's tokens of a tile, from sums to memory, by way of `panels` in shared memory.
template <bool kSwiGlu>
__device__ __forceinline__ void StoreOutputs(const TileMap& out, Tile tile, int group,
                                             uint32_t panels, float (&sums)[32][4]) {
  const int thread = threadIdx.x % kGroupThreads, lane = thread % 32;
  const int row = thread / 32 * 16 + lane % 16;
  constexpr int kColumns = kSwiGlu ? kTileRows / 2 : kTileRows, kAtOnce = kOutPanels * 64;
#pragma unroll
  for (int begin = 0; begin < kColumns; begin += kAtOnce) {
    if (thread == 0) WaitForReads();
    SyncThreads<kGroupThreads>(1 + group);
#pragma unroll
    for (int q = 0; q < kAtOnce / 16; ++q) {  // 16 columns of out
      uint32_t m[4];
      PackOutputs<kSwiGlu>(sums, begin / 16 + q, m);
      StoreMatrices(panels + q / 4 * kPanelBytes + PanelOffset(row, q % 4 * 2 + lane / 16), m);
    }
    PublishToCopies();
    SyncThreads<kGroupThreads>(1 + group);
    if (thread != 0) continue;
#pragma unroll
    for (int panel = 0; panel < kOutPanels; ++panel) {
      const int column = (kSwiGlu ? tile.row / 2 : tile.row) + begin + panel * 64;
      CopyTileToGlobal(out, tile.token + group * kGroupTokens, column,
                       panels + panel * kPanelBytes);
    }
  }
}

// grid (multiprocessors to be used), cluster (kBlocks), block (kThreads), shared kShared
template <bool kSwiGlu, int kBlocks>
__global__ void __launch_bounds__(kThreads, 1)
    PrefillLinearKernel(const PrefillLinearParams p, const __grid_constant__ TileMap x,
                        const __grid_constant__ TileMap weights,
                        const __grid_constant__ TileMap out) {
  static_assert(kSwiGlu || kBlocks == 1);
  __shared__ uint64_t full_barriers[kStages], empty_barriers[kStages];
  const uint32_t ring = AlignedForPanels(SharedAddress(DynamicShared()));
  const auto full = [&](int stage) { return SharedAddress(full_barriers + stage); };
  const auto empty = [&](int stage) { return SharedAddress(empty_barriers + stage); };
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(full(stage), 1);
      InitBarrier(empty(stage), kBlocks * kConsumers / 32);
    }
    PublishBarriers();
  }
  kBlocks > 1 ? SyncCluster() : __syncthreads();
  BeginNextKernel();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tiles = p.token_tiles * p.row_tiles;
  const int first = blockIdx.x / kBlocks, step = gridDim.x / kBlocks;  // of tiles
  const int share = blockIdx.x % kBlocks;
  if (warp == kConsumers / 32) {
    if (lane == 0) {
      PrefetchTileMap(weights);
      PrefetchTileMap(x);
      const auto fetch_weights = [&](const RingPosition& at, Tile tile, int run) {
        constexpr int kShareRows = kTileRows / kBlocks;
        const uint32_t target =
            ring + at.stage * kStageBytes + kInputBytes + share * kShareRows * kRowBytes;
        const int row =
            kSwiGlu ? tile.row / 2 + share * kShareRows / 2 : tile.row + share * kShareRows;
        ArriveExpecting(full(at.stage), kStageBytes);
        if constexpr (kBlocks > 1) {
          CopyPairedPanelToBlocks(target, weights, row, run * kRun, full(at.stage),
                                  (1 << kBlocks) - 1, kReadAgain);
        } else if constexpr (kSwiGlu) {
          CopyPairedPanelToShared(target, weights, row, run * kRun, full(at.stage), kReadAgain);
        } else {
          CopyPanelToShared(target, weights, row, run * kRun, full(at.stage), kReadAgain);
        }
      };
      const auto fetch_inputs = [&](const RingPosition& at, Tile tile, int run) {
        CopyPanelToShared(ring + at.stage * kStageBytes, x, tile.token + share * kTileTokens,
                          run * kRun, full(at.stage), kReadAgain);
      };
      RingPosition ahead, at;
      const int waiting = min(p.runs, kStages);  // stages of weights, which no kernel writes
      for (int run = 0; run < waiting; ++run, ahead.Advance(kStages)) {
        fetch_weights(ahead, TileOf<kBlocks>(p, first), run);
      }
      AwaitPreviousKernel();
      int filled = 0;
      for (int index = first; index < tiles; index += step) {
        const Tile tile = TileOf<kBlocks>(p, index);
        for (int run = 0; run < p.runs; ++run, ++filled, at.Advance(kStages)) {
          if (filled >= kStages) Wait(empty(at.stage), at.parity ^ 1);
          if (filled >= waiting) fetch_weights(at, tile, run);
          fetch_inputs(at, tile, run);
        }
      }
    }
    __syncwarp();
  } else {
    AwaitPreviousKernel();
    const int group = warp / 4;
    const uint32_t panels = ring + kStages * kStageBytes + group * kOutPanels * kPanelBytes;
    const auto release = [&](int stage) {
      if constexpr (kBlocks > 1) {
        if (lane < kBlocks) ArriveAtBlock(lane, empty(stage));
      } else {
        if (lane == 0) Arrive(empty(stage));
      }
    };
    RingPosition at;
    for (int index = first; index < tiles; index += step) {
      const Tile tile = TileOf<kBlocks>(p, index);
      float sums[32][4];
      for (int run = 0; run < p.runs; ++run) {
        Wait(full(at.stage), at.parity);
        MultiplyStage(ring + at.stage * kStageBytes, group, run > 0, sums);
        if (run > 0) release(at.Before(kStages));
        at.Advance(kStages);
      }
      WaitForProducts<0>();
      Settle(sums);
      release(at.Before(kStages));
      StoreOutputs<kSwiGlu>(out, {tile.token + share * kTileTokens, tile.row}, group, panels, sums);
    }
    if (threadIdx.x % kGroupThreads == 0) WaitForReads();
    __syncwarp();
  }
  if (kBlocks > 1) SyncCluster();  // no block ends while another may still arrive at its barriers
}

// On `stream`, behind all that is there before; `chained`: it may begin early.
template <bool kSwiGlu, int kBlocks>
void Launch(cudaStream_t stream, bool chained, const Matrix& x, const Matrix& weight,
            const Matrix& out, int multiprocessors) {
  const PrefillLinearParams p = {DivideUp(x.cols, kRun), DivideUp(x.rows, kBlocks * kTileTokens),
                                 DivideUp(weight.rows, kTileRows)};
  const int blocks = kBlocks * std::min(multiprocessors / kBlocks, p.token_tiles * p.row_tiles);
  const auto kernel = PrefillLinearKernel<kSwiGlu, kBlocks>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "cudaFuncSetAttribute");
  constexpr int kShareRows = kTileRows / kBlocks;
  Check(LaunchChainedClusters(
            kernel, dim3(blocks), dim3(kBlocks), dim3(kThreads), kShared, stream, chained, p,
            MakePanelMap(x, kTileTokens),
            kSwiGlu ? MakePairedPanelMap(weight, kShareRows) : MakePanelMap(weight, kShareRows),
            MakePanelMap(out, kGroupTokens)),
        "PrefillLinearKernel");
}

bool CanMultiply(const Matrix& x, const Matrix& weight, const Matrix& out) {
  for (const Matrix& matrix : {x, weight, out}) {
    if (matrix.dtype != DType::kBF16) return false;
  }
  return Vectorizable(out.cols, {x, weight, out}) && IsHopper();
}

}  // namespace

bool LinearSwiGlu(Stream& stream, Matrix x, Matrix weight, Matrix out) {
  const bool fp8 = weight.dtype == DType::kF8E4M3;
  Matrix wide = weight;
  if (fp8) wide.dtype = DType::kBF16;
  if (!CanMultiply(x, wide, out)) return false;
  const bool few = x.rows >= kMinClusterTokens && x.rows <= kMaxClusterTokens;
  const int multiprocessors = Multiprocessors();
  if (!few && !FillsRounds(x.rows, weight.rows, multiprocessors)) return false;
  if (fp8) {
    if (2 * weight.rows * weight.cols > kWidenedBytes) return false;
    wide = WidenWeight(stream, weight);
  }
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  // Both kernels ask for weights before the one in front has ended, which may be what widens them.
  const bool chained = stream.cuda()->can_chain && !fp8;
  if (few) {
    LaunchClusterSwiGlu(x, wide, out, cuda_stream, chained);
  } else if (x.rows >= kMinPairTokens) {
    Launch<true, 2>(cuda_stream, chained, x, wide, out, multiprocessors);
  } else {
    Launch<true, 1>(cuda_stream, chained, x, wide, out, multiprocessors);
  }
  return true;
}

bool LateLinear(Stream& stream, Matrix x, Matrix weight, int64_t late, Matrix out) {
  const Matrix late_weight = weight.Rows(late, weight.rows - late);
  const Matrix late_out = out.Columns(late, out.cols - late);
  if (x.rows < kMinLateTokens || !CanMultiply(x, late_weight, late_out)) return false;
  cuda::Linear(stream, x, weight.Rows(0, late), nullptr, out.Columns(0, late));
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const Stream::CudaContext& context = *stream.cuda();
  Check(cudaEventRecord(context.forked, cuda_stream), "cudaEventRecord");
  Check(cudaStreamWaitEvent(context.beside, context.forked, 0), "cudaStreamWaitEvent");
  Launch<false, 1>(context.beside, false, x, late_weight, late_out,
                   LateMultiprocessors(context.num_multiprocessors));
  return true;
}

void AwaitLate(Stream& stream) {
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const Stream::CudaContext& context = *stream.cuda();
  Check(cudaEventRecord(context.joined, context.beside), "cudaEventRecord");
  Check(cudaStreamWaitEvent(cuda_stream, context.joined, 0), "cudaStreamWaitEvent");
}

}  // namespace fla::cuda
