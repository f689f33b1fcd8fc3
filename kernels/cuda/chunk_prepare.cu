// The token-parallel half of prefill: everything in a chunk that does not need the state.
//
// A warp a (chunk, head) at a time, two in a block, the chunks in order; grid: any, and a last
// block that only waits (ChunkWorkspace::beside_scan). What a warp does: chunk_scalar.cuh for decay
// none, per head or per token, chunk_channel.cuh for decay per channel. Of the latter a short
// prompt, which leaves multiprocessors idle, has a block of four warps for each (chunk, head),
// which part its channels.
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_channel.cuh"
#include "kernels/cuda/chunk_scalar.cuh"
#include "kernels/cuda/divide_up.h"

namespace fla::cuda {
namespace {

constexpr int kWarps = 2;
constexpr int kMinBlocks = 6;  // an SM, which bounds registers
constexpr int kPartWarps = 4;
constexpr int kMinPartBlocks = kMaxPartBlocks;

// group_size: neighbouring heads with the same queries and keys; 1 per channel.
template <bool kDelta, bool kChannel, bool kProjected>
__global__ void __launch_bounds__(32 * kWarps, kMinBlocks)
    ChunkPrepareKernel(const RecurrenceParams p, const RecurrenceProjections from,
                       const ChunkRecord layout, const TokenWindow window, const ChunkSlots slots,
                       const ChunkWorkspace workspace, const int group_size) {
  __shared__ WarpScratch scratch[kWarps];
  BeginNextKernel();  // PrefillPlan::beside_first
  if (blockIdx.x == gridDim.x - 1) return AwaitPreviousKernel();
  const int head_groups = p.heads / group_size;
  const int64_t begin = static_cast<int64_t>(slots.begin) * head_groups,
                end = static_cast<int64_t>(slots.end) * head_groups;
  for (int64_t index = begin + static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
       index < end; index += static_cast<int64_t>(gridDim.x - 1) * kWarps) {
    const ChunkWork work = FindWork(p, window, index, head_groups, group_size);
    if (work.num_tokens == 0) continue;
    if constexpr (kChannel) {
      PrepareChannel<kDelta, kProjected>(p, layout, from, work, workspace,
                                         scratch[threadIdx.x / 32]);
    } else {
      PrepareScalar<kDelta>(p, layout, from, work, workspace, group_size,
                            scratch[threadIdx.x / 32]);
    }
  }
}

// grid (chunks and heads + 1), block (32 * kPartWarps)
template <bool kDelta>
__global__ void __launch_bounds__(32 * kPartWarps, kMinPartBlocks)
    ChunkPreparePartsKernel(const RecurrenceParams p, const RecurrenceProjections from,
                            const ChunkRecord layout, const TokenWindow window,
                            const ChunkSlots slots, const ChunkWorkspace workspace) {
  __shared__ WarpScratch scratch;
  __shared__ PartScratch<kPartWarps> parts;
  BeginNextKernel();  // PrefillPlan::beside_first
  if (blockIdx.x == gridDim.x - 1) return AwaitPreviousKernel();
  const int64_t index = static_cast<int64_t>(slots.begin) * p.heads + blockIdx.x;
  const ChunkWork work = FindWork(p, window, index, p.heads, 1);
  if (work.num_tokens == 0) return;
  PrepareChannel<kDelta, true, kPartWarps>(p, layout, from, work, workspace, scratch, parts);
}

template <bool kDelta>
void LaunchParts(const RecurrenceParams& p, const RecurrenceProjections& from,
                 const ChunkRecord& record, TokenWindow window, ChunkSlots slots,
                 const ChunkWorkspace& workspace, cudaStream_t stream) {
  Check(LaunchChained(ChunkPreparePartsKernel<kDelta>, (slots.end - slots.begin) * p.heads + 1,
                      32 * kPartWarps, 0, stream, workspace.beside_scan, p, from, record, window,
                      slots, workspace),
        "ChunkPreparePartsKernel");
}

template <bool kDelta, bool kChannel, bool kProjected>
void Launch(const RecurrenceParams& p, const RecurrenceProjections& from, const ChunkRecord& record,
            TokenWindow window, ChunkSlots slots, const ChunkWorkspace& workspace,
            cudaStream_t stream) {
  const int group_size = !kChannel && p.q_group == p.k_group ? p.q_group : 1;
  const int64_t count = slots.end - slots.begin;
  const int blocks = DivideUp(count * (p.heads / group_size), kWarps);
  Check(LaunchChained(ChunkPrepareKernel<kDelta, kChannel, kProjected>, blocks + 1, 32 * kWarps, 0,
                      stream, workspace.beside_scan, p, from, record, window, slots, workspace,
                      group_size),
        "ChunkPrepareKernel");
}

}  // namespace

void LaunchChunkPrepare(const RecurrenceParams& p, const RecurrenceProjections& from, Update update,
                        const ChunkRecord& record, TokenWindow window, ChunkSlots slots,
                        const ChunkWorkspace& workspace, bool part_channels, cudaStream_t stream) {
  const bool delta = update == Update::kDelta;
  auto launch = delta ? Launch<true, false, false> : Launch<false, false, false>;
  if (p.decay == Decay::kPerChannel) {
    launch = delta ? Launch<true, true, false> : Launch<false, true, false>;
    if (from.present()) launch = delta ? Launch<true, true, true> : Launch<false, true, true>;
    if (from.present() && part_channels) launch = delta ? LaunchParts<true> : LaunchParts<false>;
  }
  launch(p, from, record, window, slots, workspace, stream);
}

}  // namespace fla::cuda
