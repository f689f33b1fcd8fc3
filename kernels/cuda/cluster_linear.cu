// Linear and SwiGlu of 65 to 128 rows on Hopper: of a decode step, or of a short prompt that
// between_recurrences.cu has no tiles for. Bound by the reading of its weights and, as each tile of
// these wants all of x, by L2.
//
// A tile is all tokens by 96 rows of the weight, so that a model of 2048 channels has about as many
// as multiprocessors. The blocks of a cluster have neighbouring tiles and share x: each has the
// copy engine bring a quarter of it, 64 inputs at a time, to all of them. A stage is full when a
// block's own weights and all quarters are there, and empty when the consumers of all blocks are
// done with it. Two warpgroups multiply, 64 tokens each. Weights are written by no kernel: a ring
// full of them is on its way before the kernel waits for the one before it.
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/linear_stage.cuh"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/ring_position.cuh"

namespace fla::cuda {
namespace {

constexpr int kThreads = kLinearThreads;
constexpr int kTokens = kMaxClusterTokens;
static_assert(kTokens == kGroups * kGroupTokens);
constexpr int kTileRows = 96;                    // eight gates, eight ups, eight gates
constexpr int kBlocks = 4;                       // of a cluster
constexpr int kShareTokens = kTokens / kBlocks;  // of x that a block brings
constexpr int kStageBytes = kInputBytes + kTileRows * kRowBytes;
constexpr int kStages = 7;
constexpr int kStagesLeft = 4;  // to be asked for when the next kernel may begin
static_assert(kStageBytes % kPanelAlignment == 0 &&
              kShareTokens * kRowBytes % kPanelAlignment == 0);
constexpr int kColumns = kTileRows / 2;  // of out
constexpr int kShared = kPanelAlignment + kStages * kStageBytes + kTokens * OutPitch(kColumns);
static_assert(kShared <= 227 * 1024 - 256);
static_assert(kStagesLeft <= kStages);

// grid (tiles, a multiple of kBlocks), cluster (kBlocks), block (kThreads), shared kShared
__global__ void __launch_bounds__(kThreads, 1)
    ClusterLinearKernel(const Matrix out, const int runs, const __grid_constant__ TileMap x,
                        const __grid_constant__ TileMap weights) {
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
  SyncCluster();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == kConsumers / 32) {
    if (lane != 0) return;
    PrefetchTileMap(weights);
    PrefetchTileMap(x);
    const int share = blockIdx.x % kBlocks;
    const auto fetch_weights = [&](int run, int stage) {
      if (run == max(runs - kStagesLeft, 0)) BeginNextKernel();
      ArriveExpecting(full(stage), kStageBytes);
      CopyPairedPanelToShared(ring + stage * kStageBytes + kInputBytes, weights,
                              blockIdx.x * kColumns, run * kRun, full(stage), kReadOnce);
    };
    const auto fetch_inputs = [&](int run, int stage) {
      CopyPanelToBlocks(ring + stage * kStageBytes + share * kShareTokens * kRowBytes, x,
                        share * kShareTokens, run * kRun, full(stage), (1 << kBlocks) - 1,
                        kReadByAll);
    };
    const int ahead = min(runs, kStages);
    for (int run = 0; run < ahead; ++run) fetch_weights(run, run);
    AwaitPreviousKernel();
    for (int run = 0; run < ahead; ++run) fetch_inputs(run, run);
    RingPosition at;
    for (int run = ahead; run < runs; ++run, at.Advance(kStages)) {
      Wait(empty(at.stage), at.parity);
      fetch_weights(run, at.stage);
      fetch_inputs(run, at.stage);
    }
    return;
  }
  AwaitPreviousKernel();
  const int group = warp / 4;
  // All blocks' copies to this one's stage wait for it; to the last stages there are none.
  const auto release = [&](int run, int stage) {
    if (run + kStages < runs && lane < kBlocks) ArriveAtBlock(lane, empty(stage));
  };
  float sums[kTileRows / 8][4];
  RingPosition at;
  int before = 0;  // its last stage; kept, as kStages is no power of two
  for (int run = 0; run < runs; ++run) {
    Wait(full(at.stage), at.parity);
    MultiplyStage(ring + at.stage * kStageBytes, group, run > 0, sums);
    if (run > 0) release(run - 1, before);
    before = at.stage;
    at.Advance(kStages);
  }
  WaitForProducts<0>();
  Settle(sums);
  StoreTile<true>(out, static_cast<int>(out.rows), blockIdx.x * kColumns, group,
                  ring + kStages * kStageBytes, 1 + group, sums);
  SyncCluster();  // no block ends while another may still arrive at its barriers
}

}  // namespace

void LaunchClusterSwiGlu(const Matrix& x, const Matrix& weight, const Matrix& out,
                         cudaStream_t stream, bool chained) {
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(ClusterLinearKernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kShared),
        "cudaFuncSetAttribute");
  const int tiles = DivideUp(DivideUp(weight.rows, kTileRows), kBlocks) * kBlocks;
  Check(LaunchChainedClusters(ClusterLinearKernel, dim3(tiles), dim3(kBlocks), dim3(kThreads),
                              kShared, stream, chained, out, DivideUp(x.cols, kRun),
                              MakePanelMap(x, kShareTokens), MakePairedPanelMap(weight, kTileRows)),
        "ClusterLinearKernel");
}

}  // namespace fla::cuda
