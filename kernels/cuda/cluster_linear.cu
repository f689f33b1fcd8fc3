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
#include "kernels/cuda/silu_pair.cuh"

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
// Between a token's results on their way to memory: 16-byte pieces of a column's tokens lie in
// different banks.
constexpr int kOutPitch = 2 * kColumns + 16;
constexpr int kShared = kPanelAlignment + kStages * kStageBytes + kTokens * kOutPitch;
static_assert(kShared <= 227 * 1024 - 256);
static_assert(kStagesLeft <= kStages && kOutPitch % 16 == 0 && kColumns % 16 == 0);

// One warpgroup's tokens, from sums to memory, by way of `staged` in shared memory.
__device__ __forceinline__ void StoreOutputs(const Matrix& out, int group, char* staged,
                                             float (&sums)[kTileRows / 8][4]) {
  constexpr int kPieces = kColumns / 8;
  const int thread = threadIdx.x % kGroupThreads, lane = thread % 32;
  staged += group * kGroupTokens * kOutPitch;
  const uint32_t row = SharedAddress(staged) + (thread / 32 * 16 + lane % 16) * kOutPitch;
#pragma unroll
  for (int q = 0; q < kPieces / 2; ++q) {  // 16 columns
    uint32_t m[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int e = i % 2 * 2, t = 4 * q + i / 2 * 2;
      float a = sums[t][e], b = sums[t][e + 1];
      Silu(a, b);
      m[i] = Pack(a * sums[t + 1][e], b * sums[t + 1][e + 1]);
    }
    StoreMatrices(row + 32 * q + lane / 16 * 16, m);
  }
  SyncThreads<kGroupThreads>(1 + group);
  const int first_column = blockIdx.x * kColumns;
#pragma unroll
  for (int i = thread; i < kGroupTokens * kPieces; i += kGroupThreads) {
    const int token = group * kGroupTokens + i / kPieces;
    const int column = first_column + i % kPieces * 8;
    if (token >= out.rows || column >= out.cols) continue;
    *reinterpret_cast<uint4*>(RowOf<__nv_bfloat16>(out, token) + column) =
        *reinterpret_cast<const uint4*>(staged + i / kPieces * kOutPitch + i % kPieces * 16);
  }
}

// grid (tiles, a multiple of kBlocks), cluster (kBlocks), block (kThreads), shared kShared
__global__ void __launch_bounds__(kThreads, 1)
    ClusterLinearKernel(const Matrix out, const int runs, const __grid_constant__ TileMap x,
                        const __grid_constant__ TileMap weights) {
  __shared__ uint64_t full_barriers[kStages], empty_barriers[kStages];
  const uint32_t shared = SharedAddress(DynamicShared());
  const uint32_t ring = AlignedForPanels(shared);
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
  StoreOutputs(out, group, DynamicShared() + (ring - shared) + kStages * kStageBytes, sums);
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
