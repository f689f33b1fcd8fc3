// Linear of up to 64 rows on Hopper, bound by the reading of its weights.
//
// Operands are swapped: a tile's rows of the weight, up to 64 for each of two warpgroups, are the
// rows of wgmma's products, tokens their columns. One warp has the copy engine bring weights and x,
// 64 inputs at a time, into a ring. Weights are written by no kernel: it fills the ring before it
// waits for the kernel before, and memory does not fall silent in between. Half of a
// multiprocessor's shared memory bounds the ring, so that the next kernel's blocks find room beside
// this one's.
//
// Weights in eight bits (kernels/fp8.h) come by the same copies, twice as many inputs to a stage.
// Widening them takes longer than reading them; instead a kernel before this one splits x into e4m3
// numbers (split_input.cu), and products are of these. A stage's are added to the others' in f32.
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
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/ring_position.cuh"
#include "kernels/cuda/split_input.h"
#include "kernels/cuda/warpgroup.cuh"
#include "kernels/fp8.h"

namespace fla::cuda {
namespace {

using Output = DecodeLinearArgs::Output;

constexpr int kConsumers = 256;  // threads that multiply: two warpgroups
constexpr int kThreads = kConsumers + 32;
constexpr int kGroupRows = 64;  // weight rows of a warpgroup
constexpr int kMaxTileRows = 2 * kGroupRows;
constexpr int kRowBytes = 128;  // of a panel
constexpr int kPanelInputs = kRowBytes / 2;
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

// Inputs of a stage: a panel of weights.
constexpr int RunOf(bool fp8) { return fp8 ? kFp8Run : kPanelInputs; }

struct StreamLinearParams {
  Matrix out;
  const float* scales;        // of the weight's rows, kF8E4M3
  const float* token_scales;  // and of x's
  int tile_rows;              // 64 to kMaxTileRows, a multiple of 8 (kSwiGlu: of 16)
  int runs;                   // of all inputs
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

// The weight's row that is row `row` of the block's tile.
template <Output kOutput>
__device__ __forceinline__ int WeightRow(const StreamLinearParams& p, int row) {
  if constexpr (kOutput != Output::kSwiGlu) return blockIdx.y * p.tile_rows + row;
  // Eight gates, then their ups.
  const int half = row % 16 < 8 ? 0 : static_cast<int>(p.out.cols);
  return half + blockIdx.y * p.tile_rows / 2 + row / 16 * 8 + row % 8;
}

// The scale of a tile's row.
template <Output kOutput>
__device__ __forceinline__ float ScaleOf(const StreamLinearParams& p, int row) {
  const int rows = static_cast<int>(p.out.cols) * (kOutput == Output::kSwiGlu ? 2 : 1);
  return p.scales[min(WeightRow<kOutput>(p, row), rows - 1)];
}

// grid (split, tiles), cluster (split), block (kThreads), shared kPanelAlignment and, of each
// stage, the weights' panels, then x of each stage
template <int kTokens, Output kOutput, bool kFp8>
__global__ void __launch_bounds__(kThreads)
    StreamLinearKernel(const StreamLinearParams p, const __grid_constant__ TileMap weights,
                       const __grid_constant__ TileMap x) {
  constexpr int kRun = RunOf(kFp8), kInputPanels = kRun / kPanelInputs, kParts = kTokens / 8;
  constexpr int kPanelBytes = kTokens * kRowBytes, kInputBytes = kInputPanels * kPanelBytes;
  static_assert(kPanelBytes % kPanelAlignment == 0);
  __shared__ uint64_t full_barriers[kMaxStages], empty_barriers[kMaxStages];
  __shared__ float token_scales[kFp8 ? kTokens : 1];
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
      const int column = (first_run + i) * kPanelInputs;  // of 16 bits
      if constexpr (kOutput == Output::kSwiGlu) {
        CopyPairedPanelToShared(target, weights, tile * p.tile_rows / 2, column, full(stage),
                                kReadOnce);
      } else {
        CopyPanelToShared(target, weights, tile * p.tile_rows, column, full(stage), kReadOnce);
      }
    };
    const auto fetch_input = [&](int i, int stage) {
#pragma unroll
      for (int panel = 0; panel < kInputPanels; ++panel) {
        CopyPanelToShared(inputs + stage * kInputBytes + panel * kPanelBytes, x, 0,
                          (first_run + i) * kRun + panel * kPanelInputs, full(stage), kReadByAll);
      }
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

  // The second warpgroup has the tile's last rows. Where the two overlap they agree.
  const int first_row = warp / 4 * (p.tile_rows - kGroupRows);
  const int row = first_row + warp % 4 * 16 + lane / 4, token = lane % 4 * 2;
  [[maybe_unused]] float of_row[2];
  if constexpr (kFp8) {
    of_row[0] = ScaleOf<kOutput>(p, row);
    of_row[1] = ScaleOf<kOutput>(p, row + 8);
  }
  AwaitPreviousKernel();
  if (kFp8 && threadIdx.x < kTokens) {
    token_scales[threadIdx.x] = threadIdx.x < p.out.rows ? p.token_scales[threadIdx.x] : 0.0f;
  }
  float sums[kParts][4] = {};
  RingPosition at;
  for (int i = 0; i < count; ++i) {
    Wait(full(at.stage), at.parity);
    const uint32_t rows = ring + at.stage * weight_bytes + first_row * kRowBytes;
    const uint32_t stage_inputs = inputs + at.stage * kInputBytes;
    // The same in all lanes, as the compiler should know: descriptors are uniform registers.
    const uint64_t a = RowsDescriptor(__shfl_sync(~0u, rows, 0));
    const uint64_t b = RowsDescriptor(__shfl_sync(~0u, stage_inputs, 0));
    if constexpr (kFp8) {
      float of_stage[2 * kParts][4];  // of the high numbers, of the low ones
      BeginProducts();
#pragma unroll
      for (int k = 0; k < kRun / 32; ++k) {
        WarpgroupMultiplyAddFp8(of_stage, a + 2 * k, b + 2 * k, k > 0);
      }
      CommitProducts();
      WaitForProducts<0>();
      Settle(of_stage);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sums[part][e] += of_stage[part][e] + of_stage[kParts + part][e] * (1 / kSplitLow);
        }
      }
    } else {
      BeginProducts();
#pragma unroll
      for (int k = 0; k < kRun / 16; ++k) WarpgroupMultiplyAdd(sums, a + 2 * k, b + 2 * k, true);
      CommitProducts();
      WaitForProducts<0>();
      Settle(sums);
    }
    if (lane == 0) Arrive(empty(at.stage));
    at.Advance(p.stages);
  }

  SyncThreads<kConsumers>(1);  // the ring has been used: it takes the sums, [tokens][kSumPitch]
  const uint32_t target = ring + (token * kSumPitch + row) * sizeof(float);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int offset = (part * 8 + e % 2) * kSumPitch + e / 2 * 8;
      float sum = sums[part][e];
      if constexpr (kFp8) sum *= of_row[e / 2] * token_scales[part * 8 + token + e % 2];
      StoreShared(target + offset * sizeof(float), sum);
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

template <int kTokens, Output kOutput, bool kFp8>
void Launch(const DecodeLinearArgs& args, const SplitInput& x, cudaStream_t stream, bool chained) {
  constexpr bool kPairs = kOutput == Output::kSwiGlu;
  const auto kernel = StreamLinearKernel<kTokens, kOutput, kFp8>;
  const auto rows = static_cast<int>(args.weight.rows);
  const int runs = DivideUp(static_cast<int>(args.weight.cols), RunOf(kFp8));
  const auto [tile_rows, split] = PlanOf(rows, runs, kPairs ? 16 : 8);
  const int stage_bytes = (tile_rows + kTokens * (kFp8 ? 2 : 1)) * kRowBytes;
  const int stages = std::min(kMaxStages, (kSharedBytes - kPanelAlignment) / stage_bytes);
  const int sum_bytes = kTokens * kSumPitch * static_cast<int>(sizeof(float));
  const int shared = std::max(stages * stage_bytes, sum_bytes) + kPanelAlignment;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
        "cudaFuncSetAttribute");
  const StreamLinearParams params = {args.out,
                                     args.weight.scales,
                                     x.scales,
                                     tile_rows,
                                     runs,
                                     stages,
                                     IsAligned(args.out.data) && args.out.stride % kPiece == 0};
  const TileMap weights =
      kPairs ? MakePairedPanelMap(args.weight, tile_rows) : MakePanelMap(args.weight, tile_rows);
  Check(LaunchChainedClusters(kernel, dim3(split, DivideUp(rows, tile_rows)), dim3(split),
                              dim3(kThreads), shared, stream, chained, params, weights,
                              MakePanelMap(x.panels, kTokens)),
        "StreamLinear");
}

template <Output kOutput, bool kFp8>
void LaunchOfRows(const DecodeLinearArgs& args, const SplitInput& x, cudaStream_t stream,
                  bool chained) {
  if (args.x.rows <= 8) return Launch<8, kOutput, kFp8>(args, x, stream, chained);
  if (args.x.rows <= 16) return Launch<16, kOutput, kFp8>(args, x, stream, chained);
  if (args.x.rows <= 32) return Launch<32, kOutput, kFp8>(args, x, stream, chained);
  Launch<kMaxStreamLinearRows, kOutput, kFp8>(args, x, stream, chained);
}

template <Output kOutput>
void LaunchOf(const DecodeLinearArgs& args, void* scratch, cudaStream_t stream, bool chained) {
  if (args.weight.dtype == DType::kF8E4M3) {
    const SplitInput x = LaunchSplitInput(args, scratch, stream, chained);
    LaunchOfRows<kOutput, true>(args, x, stream, chained);
  } else {
    LaunchOfRows<kOutput, false>(args, {args.x, nullptr}, stream, chained);
  }
}

bool Fits(const DecodeLinearArgs& args) {
  const Matrix& weight = args.weight;
  if (args.x.rows < 1 || args.x.rows > kMaxStreamLinearRows) return false;
  if (!Vectorizable(kVector, {args.x, weight})) return false;
  if (weight.dtype == DType::kF8E4M3) {
    if (weight.cols % kFp8Run != 0 || weight.stride % 16 != 0 || !CanSplitInput(args)) return false;
  } else if (weight.dtype != DType::kBF16 || args.x.dtype != DType::kBF16 ||
             args.input != DecodeLinearArgs::Input::kPlain) {
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

size_t StreamLinearScratch(const DecodeLinearArgs& args) {
  const bool splits = args.weight.dtype == DType::kF8E4M3 && Fits(args) && IsHopper();
  return splits ? SplitInputBytes(args) : 0;
}

bool LaunchStreamLinear(const DecodeLinearArgs& args, void* scratch, cudaStream_t stream,
                        bool chained) {
  if (!Fits(args) || !IsHopper()) return false;
  switch (args.output) {
    case Output::kStore:
      LaunchOf<Output::kStore>(args, scratch, stream, chained);
      break;
    case Output::kAdd:
      LaunchOf<Output::kAdd>(args, scratch, stream, chained);
      break;
    case Output::kSwiGlu:
      LaunchOf<Output::kSwiGlu>(args, scratch, stream, chained);
      break;
  }
  return true;
}

}  // namespace fla::cuda
