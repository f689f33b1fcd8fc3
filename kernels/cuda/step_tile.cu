// Decode of many bf16 states, or of heads that step_load.cuh has no kernel for: a block's part of a
// state comes by one copy of Hopper's copy engine and goes by another.
//
// Grid (V / 64, H, N), as many threads as the largest K of the instance: 64, 128 or 256. A block
// has a tile, 64 columns of one state's K rows: 256-byte rows of f32, 128-byte rows of bf16; a
// thread up to 16 rows of 4 columns (step_token.cuh). What rows are multiplied by stays in shared
// memory, so that registers do not bound how many tiles are under way.
// bf16 activations, one token a sequence.
#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/step_launch.h"
#include "kernels/cuda/step_token.cuh"

namespace fla::cuda {
namespace {

constexpr int kLanes = kStepTileColumns / 4, kMaxRows = 16;
// Of a thread's rows, those that stay in registers from the sums to the update: as many as leave
// room for as many blocks as fit into shared memory.
template <typename S>
constexpr int kKeptRows = sizeof(S) == 4 ? 12 : 0;

// What a row of a state meets.
struct RowInputs {
  uint32_t query_key;  // bf16 each, q low
  float decay;         // factor
};

__device__ __forceinline__ RowInputs RowInputsOf(const RecurrenceParams& p, int head, int64_t token,
                                                 int row) {
  const uint32_t query =
      static_cast<const uint16_t*>(p.q)[token * p.q_stride + head / p.q_group * p.key_dim + row];
  const uint32_t key =
      static_cast<const uint16_t*>(p.k)[token * p.k_stride + head / p.k_group * p.key_dim + row];
  return {query | key << 16, DecayFactor<__nv_bfloat16>(p, head, token, row)};
}

// S state; kMaxK, at least K, is the number of threads too.
template <typename S, int kMaxK, bool kDelta>
__global__ void __launch_bounds__(kMaxK, StepTilesAtOnce(kMaxK, sizeof(S)))
    TileStepKernel(const RecurrenceParams p, const __grid_constant__ TileMap states) {
  constexpr int kWarps = kMaxK / 32;
  static_assert(kMaxK == kMaxRows * kWarps * 32 / kLanes);
  __shared__ StepSums<kWarps, kLanes> sums;
  __shared__ RowInputs inputs[kMaxK];
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
    CopyTileToShared(SharedAddress(tile), states, row, column, loaded, kWrittenBack);
  }
  AwaitPreviousKernel();
  if (threadIdx.x < p.key_dim) inputs[threadIdx.x] = RowInputsOf(p, part.head, n, threadIdx.x);
  const float4 value = ValueOf<__nv_bfloat16>(p, part, n);
  const float beta = kDelta ? p.beta[static_cast<int64_t>(n) * p.heads + part.head] : 1.0f;
  __syncthreads();  // inputs are there and the barrier is made
  Wait(loaded, 0);

  S* const mine = tile + part.first_row * kStepTileColumns + part.column_lane * 4;
  const RowInputs* const rows = inputs + part.first_row;
  const auto load = [mine](int i) {
    return *reinterpret_cast<const Raw<S>*>(mine + i * kStepTileColumns);
  };
  Raw<S> kept[std::max(kKeptRows<S>, 1)];
  float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
  float q_dot_k = 0.0f;
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (i < part.rows) {
      const Raw<S> raw = load(i);
      if (i < kKeptRows<S>) kept[i] = raw;
      const RowInputs in = rows[i];
      float4 s = Unpack(raw);
      Scale(s, in.decay);
      AddScaled(from_q, Low(in.query_key), s);
      if constexpr (kDelta) AddScaled(from_k, High(in.query_key), s);
      q_dot_k += Low(in.query_key) * High(in.query_key);
    }
  }
  AddUp<kDelta>(part, from_q, from_k, q_dot_k, sums);
  __syncthreads();
  const float4 u = UpdateOf<kDelta>(part, sums, value, beta);
#pragma unroll
  for (int i = 0; i < kMaxRows; ++i) {
    if (i < part.rows) {
      const RowInputs in = rows[i];
      float4 s = Unpack(i < kKeptRows<S> ? kept[i] : load(i));
      Scale(s, in.decay);
      AddScaled(s, High(in.query_key), u);
      StoreFour(mine + i * kStepTileColumns, s);
    }
  }
  PublishToCopies();
  __syncthreads();
  if (threadIdx.x == 0) CopyTileToGlobal(states, row, column, SharedAddress(tile));
  StoreOut<__nv_bfloat16>(p, part, n, sums, u);
  if (threadIdx.x == 0) WaitForReads();
}

template <typename S, int kMaxK>
void Launch(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  const auto kernel =
      p.beta != nullptr ? TileStepKernel<S, kMaxK, true> : TileStepKernel<S, kMaxK, false>;
  const TileMap states = MakeTileMap(p.state, sizeof(S) == 4 ? DType::kF32 : DType::kBF16,
                                     p.value_dim, p.key_dim, kStepTileColumns);
  // The tile and its barrier.
  const int shared = p.key_dim * kStepTileColumns * static_cast<int>(sizeof(S)) + 8;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "cudaFuncSetAttribute");
  const dim3 grid(DivideUp(p.value_dim, kStepTileColumns), p.heads, p.num_sequences);
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
