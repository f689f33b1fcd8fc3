// Decode where there are many states: a block's part of a state comes by one copy of Hopper's copy
// engine and goes by another. Requests of whole tiles keep the memory busier than any loads and
// stores of threads do (README.md, "What was learnt").
//
// Grid (V / 64, H, N), as many threads as the largest K of the instance: 64, 128 or 256. A block
// has a tile, 64 columns of one state's K rows: 256-byte rows of f32, 128-byte rows of bf16; a
// thread up to 16 rows of 4 columns (step_token.cuh). bf16 activations, one token a sequence.
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/step_launch.h"
#include "kernels/cuda/step_token.cuh"

namespace fla::cuda {
namespace {

constexpr int kLanes = kStepTileColumns / 4, kMaxRows = 16;

// S state; kMaxK, at least K, is the number of threads too.
template <typename S, int kMaxK, bool kDelta, bool kChannel>
__global__ void __launch_bounds__(kMaxK, StepTilesAtOnce(kMaxK))
    TileStepKernel(const RecurrenceParams p, const __grid_constant__ TileMap states) {
  constexpr int kWarps = kMaxK / 32;
  static_assert(kMaxK == kMaxRows * kWarps * 32 / kLanes);
  __shared__ StepSums<kWarps, kLanes> sums;
  BeginNextKernel();
  const int n = blockIdx.z, slot = p.slots[n];
  if (slot < 0) return AwaitPreviousKernel();
  const StatePart part(p, kLanes, kWarps);
  // An int has room: 2^31 rows of 64 columns are more than any GPU's memory.
  const int row = (slot * p.heads + part.head) * p.key_dim;
  const int column = blockIdx.x * kStepTileColumns;
  S* const tile = reinterpret_cast<S*>(DynamicShared());
  const int tile_size = p.key_dim * kStepTileColumns;
  const uint32_t loaded = SharedAddress(tile + tile_size);
  if (threadIdx.x == 0) {
    InitBarrier(loaded, 1);
    PublishBarriers();
    ArriveExpecting(loaded, tile_size * sizeof(S));
    CopyTileToShared(SharedAddress(tile), states, row, column, loaded);
  }
  AwaitPreviousKernel();
  const TokenStep<__nv_bfloat16, kMaxRows, kDelta, kChannel> step(p, part, n);
  __syncthreads();  // the barrier is made
  Wait(loaded, 0);

  S* const mine = tile + part.first_row * kStepTileColumns + part.column_lane * 4;
  float4 s[kMaxRows];
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    s[i] = i < part.rows ? LoadFour(mine + i * kStepTileColumns) : make_float4(0, 0, 0, 0);
  }
  step.Decay(s);
  step.AddUp(s, sums);
  __syncthreads();
  const float4 u = step.Update(sums, s);
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (i < part.rows) StoreFour(mine + i * kStepTileColumns, s[i]);
  }
  PublishToCopies();
  __syncthreads();
  if (threadIdx.x == 0) CopyTileToGlobal(states, row, column, SharedAddress(tile));
  step.StoreOut(sums, u);
  if (threadIdx.x == 0) WaitForTileReads();
}

template <typename S, int kMaxK>
void Launch(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  const bool channel = p.decay == Decay::kPerChannel;
  const auto kernel = p.beta    ? channel ? TileStepKernel<S, kMaxK, true, true>
                                          : TileStepKernel<S, kMaxK, true, false>
                         : channel ? TileStepKernel<S, kMaxK, false, true>
                                : TileStepKernel<S, kMaxK, false, false>;
  const TileMap states = MakeTileMap(p.state, sizeof(S) == 4 ? DType::kF32 : DType::kBF16,
                                     p.value_dim, p.key_dim, kStepTileColumns);
  // The tile and its barrier.
  const int shared = p.key_dim * kStepTileColumns * static_cast<int>(sizeof(S)) + 8;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "cudaFuncSetAttribute");
  const dim3 grid((p.value_dim + kStepTileColumns - 1) / kStepTileColumns, p.heads,
                  p.num_sequences);
  Check(LaunchChained(kernel, grid, dim3(kMaxK), shared, stream, chained, p, states),
        "TileStepKernel");
}

template <typename S>
void LaunchOf(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return Launch<S, 64>(p, stream, chained);
    case 128:
      return Launch<S, 128>(p, stream, chained);
    default:
      return Launch<S, 256>(p, stream, chained);
  }
}

}  // namespace

void LaunchTileStep(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  (p.bf16_state ? LaunchOf<__nv_bfloat16> : LaunchOf<float>)(p, stream, chained);
}

}  // namespace fla::cuda
