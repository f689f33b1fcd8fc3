// Linear of up to 64 rows on Hopper, bound by the reading of its weights.
//
// Operands are swapped: a tile's rows of the weight, up to 64 for each of two warpgroups, are the
// rows of wgmma's products, tokens their columns. One warp has the copy engine bring weights and x,
// 64 inputs at a time, into a ring. Weights are written by no kernel: it fills the ring before it
// waits for the kernel before, and memory does not fall silent in between. Half of a
// multiprocessor's shared memory bounds the ring, so that the next kernel's blocks find room beside
// this one's.
//
// Where there are few tiles, the blocks of a cluster share one, each with its part of the inputs,
// and then add up, in the order of the parts, their tokens' sums of all blocks. Neither the parts
// nor the order of a sum's terms depend on the number of tokens: a row's bits are the same in any
// batch of more than kMaxDecodeLinearRows.
#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/warpgroup.cuh"

namespace fla::cuda {
namespace {

using Output = DecodeLinearArgs::Output;

constexpr int kConsumers = 256;  // threads that multiply: two warpgroups
constexpr int kThreads = kConsumers + 32;
constexpr int kGroupRows = 64;  // weight rows of a warpgroup
constexpr int kMaxTileRows = 2 * kGroupRows;
constexpr int kRun = 64;  // inputs of a stage
constexpr int kRowBytes = kRun * 2;
constexpr int kMaxStages = 12;
constexpr int kMaxSplit = 8;
constexpr int kPanelAlignment = 1024;
constexpr int kSharedBytes = 112 * 1024;  // of the 227 KB of a multiprocessor, twice
constexpr int kPiece = 4;                 // neighbouring outputs that a thread stores

// When so many stages are left to be asked for, the next kernel may begin: its launch takes as long
// as their weights. Behind kStore comes PrepareStep, which has the convolution's states to fetch.
constexpr int StagesLeft(Output output) { return output == Output::kStore ? 8 : 4; }

// Between tokens of a block's sums in shared memory: no bank conflicts.
constexpr int kSumPitch = kMaxTileRows + 4;

struct StreamLinearParams {
  Matrix out;
  int tile_rows;  // 64 to kMaxTileRows, a multiple of 8 (kSwiGlu: of 16)
  int runs;       // of all inputs
  int stages;
  bool vectorized;  // pieces of `out` are aligned
};

// The sum, in the order of the blocks, of what the cluster's blocks have at `address`.
__device__ __forceinline__ float4 SumOverBlocks(uint32_t address, int blocks) {
  if (blocks == 1) return LoadShared(address);
  float4 of_block[kMaxSplit];
#pragma unroll
  for (int block = 0; block < kMaxSplit; ++block) {
    if (block < blocks) of_block[block] = LoadFromBlock(block, address);
  }
  float4 sum = of_block[0];
#pragma unroll
  for (int block = 1; block < kMaxSplit; ++block) {
    if (block >= blocks) continue;
    sum.x += of_block[block].x, sum.y += of_block[block].y;
    sum.z += of_block[block].z, sum.w += of_block[block].w;
  }
  return sum;
}

template <Output kOutput>
__device__ __forceinline__ void StorePiece(const StreamLinearParams& p, int token, int row,
                                           const float (&values)[kPiece]) {
  const auto columns = static_cast<int>(p.out.cols);
  if constexpr (kOutput == Output::kAdd) {
    float* const target = RowOf<float>(p.out, token) + row;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      // The only addition to this element: it waits for nothing, and there is no order.
      if (row + i < columns) atomicAdd(target + i, values[i]);
    }
  } else {
    const auto store = [&](auto* target) {
      if (p.vectorized && row + kPiece <= columns) return Store(target, values);
      for (int i = 0; i < kPiece; ++i) {
        const float value[1] = {values[i]};
        if (row + i < columns) Store(target + i, value);
      }
    };
    if (p.out.dtype == DType::kF32) {
      store(RowOf<float>(p.out, token) + row);
    } else {
      store(RowOf<__nv_bfloat16>(p.out, token) + row);
    }
  }
}

// Stores this block's share of the tile's outputs: its tokens of out, of all rows. A short loop,
// because instructions that are executed for the first time take longer to come than to run.
template <Output kOutput>
__device__ __forceinline__ void StoreOutputs(const StreamLinearParams& p, uint32_t sums) {
  constexpr bool kPairs = kOutput == Output::kSwiGlu;
  const int split = gridDim.x, tokens = static_cast<int>(p.out.rows);
  const int first_token = tokens * blockIdx.x / split;
  const int share = tokens * (blockIdx.x + 1) / split - first_token;
  const int columns = kPairs ? p.tile_rows / 2 : p.tile_rows;
  const int pieces = columns / kPiece;
#pragma unroll 2
  for (int i = threadIdx.x; i < share * pieces; i += kConsumers) {
    const int token = first_token + i / pieces, column = i % pieces * kPiece;
    // Of kSwiGlu, eight rows of the tile are gates, the next eight their ups.
    const int row = kPairs ? column / 8 * 16 + column % 8 : column;
    const uint32_t address = sums + (token * kSumPitch + row) * sizeof(float);
    const float4 sum = SumOverBlocks(address, split);
    float values[kPiece] = {sum.x, sum.y, sum.z, sum.w};
    if constexpr (kPairs) {
      const float4 up = SumOverBlocks(address + 8 * sizeof(float), split);
      const float ups[kPiece] = {up.x, up.y, up.z, up.w};
#pragma unroll
      for (int j = 0; j < kPiece; ++j) values[j] *= Sigmoid<__nv_bfloat16>(values[j]) * ups[j];
    }
    StorePiece<kOutput>(p, token, static_cast<int>(blockIdx.y) * columns + column, values);
  }
}

// A position in the ring, and how often it has been gone round.
struct RingPosition {
  int stage = 0, parity = 0;

  __device__ void Advance(int stages) {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

// grid (split, tiles), cluster (split), block (kThreads), shared kPanelAlignment and, of each
// stage, the weights' panels, then x of each stage
template <int kTokens, Output kOutput>
__global__ void __launch_bounds__(kThreads)
    StreamLinearKernel(const StreamLinearParams p, const __grid_constant__ TileMap weights,
                       const __grid_constant__ TileMap x) {
  constexpr int kInputBytes = kTokens * kRowBytes, kParts = kTokens / 8;
  static_assert(kInputBytes % kPanelAlignment == 0);
  __shared__ uint64_t full_barriers[kMaxStages], empty_barriers[kMaxStages];
  const int weight_bytes = p.tile_rows * kRowBytes;
  const uint32_t ring =
      (SharedAddress(DynamicShared()) + kPanelAlignment - 1) & ~(kPanelAlignment - 1u);
  const uint32_t inputs = ring + p.stages * weight_bytes;
  const auto full = [&](int stage) { return SharedAddress(full_barriers + stage); };
  const auto empty = [&](int stage) { return SharedAddress(empty_barriers + stage); };
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < p.stages; ++stage) {
      InitBarrier(full(stage), 1);
      InitBarrier(empty(stage), kConsumers / 32);
    }
    PublishBarriers();
  }
  __syncthreads();
  const int split = gridDim.x, tile = blockIdx.y;
  const int first_run = p.runs * blockIdx.x / split;
  const int count = p.runs * (blockIdx.x + 1) / split - first_run;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  if (warp == kConsumers / 32) {
    if (lane != 0) return;
    PrefetchTileMap(weights);
    PrefetchTileMap(x);
    const auto fetch_weights = [&](int i, int stage) {
      if (i == max(count - StagesLeft(kOutput), 0)) BeginNextKernel();
      ArriveExpecting(full(stage), weight_bytes + kInputBytes);
      const uint32_t target = ring + stage * weight_bytes;
      const int column = (first_run + i) * kRun;
      if constexpr (kOutput == Output::kSwiGlu) {
        CopyPairedPanelToShared(target, weights, tile * p.tile_rows / 2, column, full(stage),
                                kReadOnce);
      } else {
        CopyPanelToShared(target, weights, tile * p.tile_rows, column, full(stage), kReadOnce);
      }
    };
    const auto fetch_input = [&](int i, int stage) {
      CopyPanelToShared(inputs + stage * kInputBytes, x, 0, (first_run + i) * kRun, full(stage),
                        kReadByAll);
    };
    const int ahead = min(count, p.stages);
    for (int i = 0; i < ahead; ++i) fetch_weights(i, i);
    AwaitPreviousKernel();
    for (int i = 0; i < ahead; ++i) fetch_input(i, i);
    RingPosition at;
    for (int i = ahead; i < count; ++i) {
      Wait(empty(at.stage), at.parity);
      fetch_weights(i, at.stage);
      fetch_input(i, at.stage);
      at.Advance(p.stages);
    }
    return;
  }

  AwaitPreviousKernel();
  // The second warpgroup has the tile's last rows. Where the two overlap they agree.
  const int first_row = warp / 4 * (p.tile_rows - kGroupRows);
  float sums[kParts][4] = {};
  RingPosition at;
  for (int i = 0; i < count; ++i) {
    Wait(full(at.stage), at.parity);
    const uint64_t a = RowsDescriptor(ring + at.stage * weight_bytes + first_row * kRowBytes);
    const uint64_t b = RowsDescriptor(inputs + at.stage * kInputBytes);
    BeginProducts();
#pragma unroll
    for (int k = 0; k < kRun / 16; ++k) WarpgroupMultiplyAdd(sums, a + 2 * k, b + 2 * k, true);
    CommitProducts();
    WaitForProducts<0>();
    Settle(sums);
    if (lane == 0) Arrive(empty(at.stage));
    at.Advance(p.stages);
  }

  SyncThreads<kConsumers>(1);  // the ring has been used: it takes the sums, [tokens][kSumPitch]
  const int row = first_row + warp % 4 * 16 + lane / 4, token = lane % 4 * 2;
  const uint32_t target = ring + (token * kSumPitch + row) * sizeof(float);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int offset = (part * 8 + e % 2) * kSumPitch + e / 2 * 8;
      StoreShared(target + offset * sizeof(float), sums[part][e]);
    }
  }
  if (split == 1) {
    SyncThreads<kConsumers>(1);
  } else {
    SyncCluster();
  }
  StoreOutputs<kOutput>(p, ring);
  if (split > 1) SyncCluster();  // no block ends while another reads its sums
}

struct StreamPlan {
  int tile_rows, split;
};

// Tiles of all inputs, about as many as multiprocessors or a multiple. Where weights have too few
// rows for that, of kMaxTileRows rows, the inputs in parts.
StreamPlan PlanOf(int rows, int runs, int row_unit) {
  const int most = Multiprocessors(), tiles = DivideUp(rows, kMaxTileRows);
  if (2 * tiles > most) {
    const int rounds = DivideUp(tiles, most);
    const int tile_rows = DivideUp(DivideUp(rows, rounds * most), row_unit) * row_unit;
    return {std::max(tile_rows, kGroupRows), 1};
  }
  int split = 1;
  while (split < kMaxSplit && 2 * split * tiles <= most && 2 * split <= runs) split *= 2;
  return {kMaxTileRows, split};
}

template <int kTokens, Output kOutput>
void Launch(const DecodeLinearArgs& args, cudaStream_t stream, bool chained) {
  constexpr bool kPairs = kOutput == Output::kSwiGlu;
  const auto kernel = StreamLinearKernel<kTokens, kOutput>;
  const auto rows = static_cast<int>(args.weight.rows);
  const int runs = DivideUp(static_cast<int>(args.weight.cols), kRun);
  const auto [tile_rows, split] = PlanOf(rows, runs, kPairs ? 16 : 8);
  const int stage_bytes = (tile_rows + kTokens) * kRowBytes;
  const int stages = std::min(kMaxStages, (kSharedBytes - kPanelAlignment) / stage_bytes);
  const int sum_bytes = kTokens * kSumPitch * static_cast<int>(sizeof(float));
  const int shared = std::max(stages * stage_bytes, sum_bytes) + kPanelAlignment;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
        "cudaFuncSetAttribute");
  const StreamLinearParams params = {args.out, tile_rows, runs, stages,
                                     IsAligned(args.out.data) && args.out.stride % kPiece == 0};
  const TileMap weights =
      kPairs ? MakePairedPanelMap(args.weight, tile_rows) : MakePanelMap(args.weight, tile_rows);
  Check(LaunchChainedClusters(kernel, dim3(split, DivideUp(rows, tile_rows)), dim3(split),
                              dim3(kThreads), shared, stream, chained, params, weights,
                              MakePanelMap(args.x, kTokens)),
        "StreamLinear");
}

template <Output kOutput>
void LaunchOf(const DecodeLinearArgs& args, cudaStream_t stream, bool chained) {
  if (args.x.rows <= 8) return Launch<8, kOutput>(args, stream, chained);
  if (args.x.rows <= 16) return Launch<16, kOutput>(args, stream, chained);
  if (args.x.rows <= 32) return Launch<32, kOutput>(args, stream, chained);
  Launch<kMaxStreamLinearRows, kOutput>(args, stream, chained);
}

bool Fits(const DecodeLinearArgs& args) {
  if (args.input != DecodeLinearArgs::Input::kPlain || args.x.rows < 1 ||
      args.x.rows > kMaxStreamLinearRows) {
    return false;
  }
  if (args.x.dtype != DType::kBF16 || args.weight.dtype != DType::kBF16 ||
      !Vectorizable(kVector, {args.x, args.weight})) {
    return false;
  }
  switch (args.output) {
    case Output::kStore:
      return args.out.dtype != DType::kF16;
    case Output::kAdd:
      return args.out.dtype == DType::kF32;
    case Output::kSwiGlu:
      return args.out.dtype == DType::kBF16 && args.out.cols % 8 == 0;
  }
  return false;
}

}  // namespace

bool LaunchStreamLinear(const DecodeLinearArgs& args, cudaStream_t stream, bool chained) {
  if (!Fits(args) || !IsHopper()) return false;
  switch (args.output) {
    case Output::kStore:
      LaunchOf<Output::kStore>(args, stream, chained);
      break;
    case Output::kAdd:
      LaunchOf<Output::kAdd>(args, stream, chained);
      break;
    case Output::kSwiGlu:
      LaunchOf<Output::kSwiGlu>(args, stream, chained);
      break;
  }
  return true;
}

}  // namespace fla::cuda
