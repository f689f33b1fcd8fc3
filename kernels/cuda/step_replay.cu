// A decode step on states beside which updates wait. With G_i the decay from update i to now, G
// from the last pass, S0 what is stored and d_i = G_i k_i,
//
//   S^T x = S0^T (G x) + sum_i (d_i . x) u_i        x = q, k
//   S     = G S0 + sum_i d_i u_i^T                  every r-th step
//
// so a tile is multiplied by two vectors as ever, and what waits costs a few dot products of K. All
// decays are products of factors <= 1, never quotients.
//
// Grid (V / 64, H, N), as many threads as the largest K of the instance: 64, 128 or 256. A tile, 64
// columns of a state's K rows, comes by one copy of Hopper's copy engine as in step_tile.cu, and
// goes by another where it was written. Its threads have two roles: one has a row of q, k and of
// what waits; and it has 16 rows of 4 columns of the sums (step_token.cuh). One token a sequence.
#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/step_replay.h"
#include "kernels/cuda/step_token.cuh"
#include "kernels/cuda/warp_sum.cuh"

namespace fla::cuda {
namespace {

constexpr int kColumns = kReplayColumns, kLanes = kColumns / 4, kRunRows = 16;
constexpr int kMaxPending = kMaxReplaySteps - 1;  // when a step begins

// Blocks that share a multiprocessor's memory and, with 72 registers a thread, its registers.
constexpr int BlocksAtOnce(int max_k) {
  const int fitting =
      228 * 1024 /
      ((4 * kColumns + 24) * max_k + 256 * kMaxReplaySteps + max_k / 4 * kMaxPending + 1024);
  return std::min(fitting, 896 / max_k);
}

// What waits beside one head's states.
struct Pending {
  __device__ __forceinline__ Pending(const RecurrenceParams& p, const ReplayParams& replay,
                                     int slot, int head)
      : steps(replay.steps) {
    char* const memory = replay.pending + slot * replay.layout.bytes;
    const bool channel = p.decay == Decay::kPerChannel;
    decay_count = channel ? p.key_dim : 1;
    counts = reinterpret_cast<int*>(memory + replay.layout.counts) +
             head * DivideUp(p.value_dim, kColumns);
    updates = reinterpret_cast<float*>(memory + replay.layout.updates) + head * steps * p.value_dim;
    decays = reinterpret_cast<float*>(memory + replay.layout.decays) + head * steps * decay_count;
    keys = reinterpret_cast<float*>(memory + replay.layout.keys) + head * steps * p.key_dim;
  }
  // The place of the update that came `age` steps before the last one, where the next goes to
  // `next`.
  __device__ __forceinline__ int Place(int next, int age) const {
    const int place = next - 1 - age;
    return place < 0 ? place + steps : place;
  }
  __device__ __forceinline__ float* DecayAt(int place, int row) const {
    return decays + place * decay_count + (decay_count == 1 ? 0 : row);
  }

  int steps, decay_count;
  int* counts;
  float *updates, *decays, *keys;
};

// A word: two numbers below 256.
static_assert(kMaxReplaySteps < 256);
struct Counts {
  __device__ __forceinline__ explicit Counts(int word) : next(word & 255), waiting(word >> 8) {}
  int next;  // place of this step's update
  int waiting;
};

// T activations; kMaxK, at least K, is the number of threads too.
template <typename T, int kMaxK, bool kDelta>
__global__ void __launch_bounds__(kMaxK, BlocksAtOnce(kMaxK))
    ReplayStepKernel(const RecurrenceParams p, const ReplayParams replay,
                     const __grid_constant__ TileMap states) {
  constexpr int kWarps = kMaxK / 32, kRuns = kMaxK / kRunRows;
  static_assert(kRuns * kLanes == kMaxK);  // both roles have all threads
  __shared__ StepSums<kWarps, kLanes> sums;
  __shared__ float2 decayed[kMaxK];  // G q and G k
  __shared__ float4 updates[kMaxReplaySteps][kLanes];
  __shared__ float2 dots[kWarps][kMaxPending];  // d_i . q and d_i . k of a warp's rows
  BeginNextKernel();
  const int n = blockIdx.z, slot = p.slots[n];
  if (slot < 0) return AwaitPreviousKernel();
  const StatePart part(p, kLanes, kWarps);
  const int row_of_state = (slot * p.heads + part.head) * p.key_dim;
  const int first_column = blockIdx.x * kColumns;
  float* const tile = reinterpret_cast<float*>(DynamicShared());
  const int tile_size = p.key_dim * kColumns;
  const uint32_t loaded = SharedAddress(tile + tile_size);
  if (threadIdx.x == 0) {
    InitBarrier(loaded, 1);
    PublishBarriers();
    ArriveExpecting(loaded, tile_size * sizeof(float));
    CopyTileToShared(SharedAddress(tile), states, row_of_state, first_column, loaded, kWrittenBack);
  }

  const Pending pending(p, replay, slot, part.head);
  const Counts counts(pending.counts[blockIdx.x]);
  const int row = threadIdx.x;
  const bool has_row = row < p.key_dim;
  float keys[kMaxPending], decays[kMaxPending];  // of the row, the last one's first
#pragma unroll
  for (int i = 0; i < kMaxPending; ++i) {
    const bool present = i < counts.waiting && has_row;
    const int place = pending.Place(counts.next, i);
    keys[i] = present ? pending.keys[place * p.key_dim + row] : 0.0f;
    decays[i] = present ? *pending.DecayAt(place, row) : 1.0f;
  }
  for (int i = threadIdx.x; i < counts.waiting * kLanes; i += kMaxK) {
    const int place = pending.Place(counts.next, i / kLanes);
    const int column = first_column + i % kLanes * 4;
    updates[i / kLanes][i % kLanes] = column < p.value_dim
                                          ? LoadFour(pending.updates + place * p.value_dim + column)
                                          : make_float4(0, 0, 0, 0);
  }
  AwaitPreviousKernel();

  const int64_t token = n;
  const float query = has_row
                          ? ToFloat(static_cast<const T*>(
                                p.q)[token * p.q_stride + part.head / p.q_group * p.key_dim + row])
                          : 0.0f;
  const float key = has_row
                        ? ToFloat(static_cast<const T*>(
                              p.k)[token * p.k_stride + part.head / p.k_group * p.key_dim + row])
                        : 0.0f;
  const float decay = has_row ? DecayFactor<T>(p, part.head, token, row) : 1.0f;
  const float4 value = ValueOf<T>(p, part, token);
  const float beta = kDelta ? p.beta[token * p.heads + part.head] : 1.0f;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float whole = decay;  // G
#pragma unroll
  for (int i = 0; i < kMaxPending; ++i) {
    if (i < counts.waiting) {
      keys[i] *= whole;
      whole *= decays[i];
      const float from_q = WarpSum(query * keys[i]);
      const float from_k = kDelta ? WarpSum(key * keys[i]) : 0.0f;
      if (lane == 0) dots[warp][i] = make_float2(from_q, from_k);
    }
  }
  decayed[row] = make_float2(query * whole, key * whole);
  const float q_dot_k = WarpSum(query * key);
  if (lane == 0) sums.q_dot_k[warp] = q_dot_k;
  __syncthreads();  // what waits is there and the barrier is made
  Wait(loaded, 0);

  float4 from_q = make_float4(0, 0, 0, 0), from_k = from_q;
  const int run = threadIdx.x / kLanes;
  if (run * kRunRows < p.key_dim) {
    const float* const mine = tile + run * kRunRows * kColumns + part.column_lane * 4;
#pragma unroll
    for (int i = 0; i < kRunRows; ++i) {
      const float4 s = LoadFour(mine + i * kColumns);
      const float2 in = decayed[run * kRunRows + i];
      AddScaled(from_q, in.x, s);
      if constexpr (kDelta) AddScaled(from_k, in.y, s);
    }
  }
  for (int i = run; i < counts.waiting; i += kRuns) {
    float2 dot = make_float2(0, 0);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) dot.x += dots[w][i].x, dot.y += dots[w][i].y;
    AddScaled(from_q, dot.x, updates[i][part.column_lane]);
    if constexpr (kDelta) AddScaled(from_k, dot.y, updates[i][part.column_lane]);
  }
  from_q = SumOverRuns<kLanes>(from_q, kLanes);
  if constexpr (kDelta) from_k = SumOverRuns<kLanes>(from_k, kLanes);
  if (lane < kLanes) {
    sums.from_q[warp][lane] = from_q;
    if constexpr (kDelta) sums.from_k[warp][lane] = from_k;
  }
  __syncthreads();
  const float4 u = UpdateOf<kDelta>(part, sums, value, beta);
  StoreOut<T>(p, part, token, sums, u);

  const int steps = pending.steps;
  const bool write =
      (counts.next + part.head * static_cast<int>(gridDim.x) + blockIdx.x) % steps == steps - 1;
  if (threadIdx.x < kLanes) {
    updates[kMaxPending][threadIdx.x] = u;
    if (part.active && !write) {
      StoreFour(pending.updates + counts.next * p.value_dim + part.column, u);
    }
  }
  // For all tiles of the head: what this one writes at once may wait in others.
  if (blockIdx.x == 0 && has_row) {
    pending.keys[counts.next * p.key_dim + row] = key;
    if (row < pending.decay_count) *pending.DecayAt(counts.next, row) = decay;
  }
  if (threadIdx.x == 0) {
    const int next = counts.next + 1 == steps ? 0 : counts.next + 1;
    pending.counts[blockIdx.x] = next + 256 * (write ? 0 : counts.waiting + 1);
  }
  if (!write) return;

  __syncthreads();  // u is there, and the tile has been read
  if (has_row) {
    // Each lane begins at another column, so that they meet different banks.
#pragma unroll 4
    for (int i = 0; i < kLanes; ++i) {
      const int lane_of_columns = (i + row) % kLanes;
      float* const four = tile + row * kColumns + lane_of_columns * 4;
      float4 s = LoadFour(four);
      Scale(s, whole);
#pragma unroll
      for (int j = 0; j < kMaxPending; ++j) {
        if (j < counts.waiting) AddScaled(s, keys[j], updates[j][lane_of_columns]);
      }
      AddScaled(s, key, updates[kMaxPending][lane_of_columns]);
      StoreFour(four, s);
    }
  }
  PublishToCopies();
  __syncthreads();
  if (threadIdx.x == 0) {
    CopyTileToGlobal(states, row_of_state, first_column, SharedAddress(tile));
    WaitForReads();
  }
}

constexpr int kApplyThreads = 256;

// Grid (H, N, layers), kApplyThreads threads: a block has one head's states of one layer.
__global__ void __launch_bounds__(kApplyThreads)
    ApplyPendingKernel(const RecurrenceParams p, const ReplayParams replay,
                       const int64_t layer_bytes) {
  constexpr int kMaxK = 256;
  static_assert(kMaxK == kApplyThreads);
  __shared__ float keys[kMaxPending][kMaxK], whole[kMaxK];
  const int head = blockIdx.x, slot = p.slots[blockIdx.y], row = threadIdx.x;
  if (slot < 0) return;
  ReplayParams of_layer = replay;
  of_layer.pending += blockIdx.z * layer_bytes;
  const Pending pending(p, of_layer, slot, head);
  float* const state =
      reinterpret_cast<float*>(static_cast<char*>(p.state) + blockIdx.z * layer_bytes) +
      (static_cast<int64_t>(slot) * p.heads + head) * p.key_dim * p.value_dim;
  for (int tile = 0; tile < DivideUp(p.value_dim, kColumns); ++tile) {
    const Counts counts(pending.counts[tile]);
    __syncthreads();
    if (threadIdx.x == 0) pending.counts[tile] = 0;
    if (counts.waiting == 0) continue;
    if (row < p.key_dim) {
      float decay = 1.0f;
      for (int i = 0; i < counts.waiting; ++i) {
        const int place = pending.Place(counts.next, i);
        keys[i][row] = decay * pending.keys[place * p.key_dim + row];
        decay *= *pending.DecayAt(place, row);
      }
      whole[row] = decay;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < p.key_dim * kLanes; i += kApplyThreads) {
      const int of_row = i / kLanes, column = tile * kColumns + i % kLanes * 4;
      if (column >= p.value_dim) continue;
      float* const four = state + of_row * p.value_dim + column;
      float4 s = LoadState(four);
      Scale(s, whole[of_row]);
      for (int j = 0; j < counts.waiting; ++j) {
        const int place = pending.Place(counts.next, j);
        AddScaled(s, keys[j][of_row], LoadFour(pending.updates + place * p.value_dim + column));
      }
      StoreState(four, s);
    }
  }
}

template <typename T, int kMaxK>
void Launch(const RecurrenceParams& p, const ReplayParams& replay, cudaStream_t stream,
            bool chained) {
  const auto kernel =
      p.beta != nullptr ? ReplayStepKernel<T, kMaxK, true> : ReplayStepKernel<T, kMaxK, false>;
  const TileMap states = MakeTileMap(p.state, DType::kF32, p.value_dim, p.key_dim, kColumns);
  // The tile and its barrier.
  const int shared = p.key_dim * kColumns * static_cast<int>(sizeof(float)) + 8;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "cudaFuncSetAttribute");
  const dim3 grid(DivideUp(p.value_dim, kColumns), p.heads, p.num_sequences);
  Check(LaunchChained(kernel, grid, dim3(kMaxK), shared, stream, chained, p, replay, states),
        "ReplayStepKernel");
}

template <typename T>
void LaunchOf(const RecurrenceParams& p, const ReplayParams& replay, cudaStream_t stream,
              bool chained) {
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return Launch<T, 64>(p, replay, stream, chained);
    case 128:
      return Launch<T, 128>(p, replay, stream, chained);
    default:
      return Launch<T, 256>(p, replay, stream, chained);
  }
}

}  // namespace

ReplayParams ReplayParamsOf(const RecurrenceSpec& spec, const StateReplay& replay) {
  return {static_cast<char*>(replay.pending), PendingLayoutOf(spec, replay.steps), replay.steps};
}

void LaunchReplayStep(const RecurrenceParams& p, const ReplayParams& replay, DType dtype,
                      cudaStream_t stream, bool chained) {
  if (p.num_sequences == 0) return;
  (dtype == DType::kF32 ? LaunchOf<float> : LaunchOf<__nv_bfloat16>)(p, replay, stream, chained);
}

void LaunchApplyPending(const PendingUpdates& args, cudaStream_t stream) {
  RecurrenceParams p = {};
  p.state = args.state;
  p.slots = args.slots;
  p.heads = args.spec.heads;
  p.key_dim = args.spec.key_dim;
  p.value_dim = args.spec.value_dim;
  p.decay = args.spec.decay;
  const ReplayParams replay = ReplayParamsOf(args.spec, args.replay);
  const dim3 grid(p.heads, args.num_sequences, args.layers);
  ApplyPendingKernel<<<grid, kApplyThreads, 0, stream>>>(p, replay, args.layer_bytes);
  CheckLaunch("ApplyPendingKernel");
}

}  // namespace fla::cuda
