// The token-parallel half of wide prefill, decay none, per head or per token: P and T of every
// chunk of 64 tokens.
//
// Grid (chunk slots x head groups, and a last block that only waits: ChunkWorkspace::beside_scan);
// a block is one warpgroup with one chunk and heads that share its queries and keys. It makes Q K^T
// once, and of it each head's P, then K K^T and of that each head's T (wide_matrices.cuh): one
// product after the other, for registers bound how many blocks run side by side. P and T pass
// through shared memory to the copy engine.
#include <algorithm>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/projected_inputs.cuh"
#include "kernels/cuda/wide_matrices.cuh"
#include "kernels/cuda/wide_triangle.cuh"

namespace fla::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kMaxHeads = 8;  // of a block
constexpr int kBarrier = 1;
constexpr WideRecord kRecord = MakeWideRecord(/*delta=*/true);

// The decays and write strengths of the block's heads: sums of log decay, to base 2, up to the
// token, and beta.
struct HeadScalars {
  float sums[kMaxHeads][kWideChunk];
  float beta[kMaxHeads][kWideChunk];
};
// Shared memory: q as panels, in whose place P of two heads comes; k as panels, in whose place T
// and what T is made by come; HeadScalars.
constexpr int KeyOffset(int panels) { return std::max(panels * kPanelBytes, 2 * kTriangleBytes); }
constexpr int kBehindKey = kTriangleBytes;  // offset of TransformScratch
constexpr int ScalarsOffset(int panels) {
  return KeyOffset(panels) +
         std::max<int>(panels * kPanelBytes, kBehindKey + sizeof(TransformScratch));
}
constexpr int SharedBytes(int panels) { return ScalarsOffset(panels) + sizeof(HeadScalars); }
static_assert(2 * kTriangleBytes % 1024 == 0, "k is aligned as panels are");

// Rows of q or k to panels; what is behind the sequence or the head is 0. At least one token.
template <int kPanels>
__device__ __forceinline__ void LoadPanels(uint32_t target, const void* data, int64_t stride,
                                           int64_t first_element, int tokens, int columns) {
  constexpr int kPieces = 8 * kPanels, kRows = kThreads / kPieces;
  const int piece = threadIdx.x % kPieces, first_row = threadIdx.x / kPieces;
  const bool inside = 8 * piece < columns;
  // Of the row, or of the last one before it that is there.
  const auto* source = static_cast<const __nv_bfloat16*>(data) + first_element +
                       min(first_row, tokens - 1) * stride + (inside ? 8 * piece : 0);
#pragma unroll
  for (int i = 0; i < kWideChunk / kRows; ++i) {
    const int row = first_row + i * kRows;
    CopyAsync(target + piece / 8 * kPanelBytes + PanelOffset(row, piece % 8), source,
              inside && row < tokens);
    if (row + kRows < tokens) source += kRows * stride;
  }
}

}  // namespace

// Blocks an SM: bounds registers.
template <int kPanels>
__global__ void __launch_bounds__(kThreads, kPanels == 4 ? 3 : 6)
    WidePrepareKernel(const RecurrenceParams p, const RecurrenceProjections from,
                      const TokenWindow window, const ChunkSlots slots,
                      const ChunkWorkspace workspace, const int group_size) {
  extern __shared__ __align__(1024) char shared[];
  BeginNextKernel();  // PrefillPlan::beside_first
  if (blockIdx.x == gridDim.x - 1) return AwaitPreviousKernel();
  const int head_groups = p.heads / group_size;
  const int64_t index = static_cast<int64_t>(slots.begin) * head_groups + blockIdx.x;
  const ChunkWork work = FindWork<kWideChunk>(p, window, index, head_groups, group_size);
  if (work.num_tokens == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  const uint32_t q = SharedAddress(shared), k = q + KeyOffset(kPanels);
  LoadPanels<kPanels>(q, p.q, p.q_stride,
                      work.first_token * p.q_stride + work.first_head / p.q_group * p.key_dim,
                      work.num_tokens, p.key_dim);
  LoadPanels<kPanels>(k, p.k, p.k_stride,
                      work.first_token * p.k_stride + work.first_head / p.k_group * p.key_dim,
                      work.num_tokens, p.key_dim);
  CommitCopies();

  auto& scalars = *reinterpret_cast<HeadScalars*>(shared + ScalarsOffset(kPanels));
  const auto record_of = [&](int head) {
    return workspace.records +
           (static_cast<int64_t>(work.slot) * p.heads + work.first_head + head) * kRecord.bytes;
  };
  // A warp makes the decays of every fourth head.
  for (int head = warp; head < group_size; head += kWarps) {
    const int h = work.first_head + head;
    float sum[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = lane + 32 * half, token = work.first_token + i;
      const bool is_there = i < work.num_tokens;
      sum[half] = is_there ? LoadLogDecay(p, from, token, h) : 0.0f;
      scalars.beta[head][i] = is_there ? LoadBeta(p, from, token, h) : 0.0f;
    }
    SumLogDecay(sum);
    StoreDecays(sum, reinterpret_cast<float*>(record_of(head) + kRecord.decay));
    scalars.sums[head][lane] = sum[0];
    scalars.sums[head][lane + 32] = sum[1];
  }
  WaitForCopies<0>();
  PublishToTensorCores();
  __syncthreads();

  float product[8][4] = {};
  MultiplyPanels<kPanels>(q, k, product);
  __syncthreads();  // q makes way

  // A warp's rows of P are its own, from the product to the copies, of which a row of blocks that
  // reaches into the last quadrant has two.
  constexpr int kRowsBytes = 16 * kTriangleRowBytes;
  for (int head = 0; head < group_size; ++head) {
    char* const attention = shared + head % 2 * kTriangleBytes;
    if (lane < 2) WaitForReads<1>();  // by the copy from there
    __syncwarp();
    MakeAttention(product, scalars.sums[head], p.scale, attention);
    PublishToCopies();
    __syncwarp();
    if (lane < (warp < 2 ? 1 : 2)) {
      const int rows = lane == 0 ? kQuadrantBytes + kRowsBytes * warp : kRowsBytes * (warp - 2);
      CopyToGlobal(record_of(head) + kRecord.attention + rows, SharedAddress(attention) + rows,
                   kRowsBytes);
    }
  }
  MultiplyPanels<kPanels>(k, k, product);
  __syncthreads();  // and so does k

  // T is everybody's, and the first thread's to copy.
  char* const transform = shared + KeyOffset(kPanels);
  StoreZerosToTriangle(transform, warp);  // which no head overwrites
  auto& scratch = *reinterpret_cast<TransformScratch*>(transform + kBehindKey);
  for (int head = 0; head < group_size; ++head) {
    if (threadIdx.x == 0) WaitForReads();  // by the copy before; the others write behind a barrier
    MakeTransform(product, scalars.sums[head], scalars.beta[head], scratch,
                  SharedAddress(transform), kBarrier);
    PublishToCopies();
    __syncthreads();
    if (threadIdx.x == 0) {
      CopyToGlobal(record_of(head) + kRecord.transform, SharedAddress(transform), kTriangleBytes);
    }
  }
  if (lane < 2) WaitForReads();
}

namespace {

template <int kPanels>
void Launch(const RecurrenceParams& p, const RecurrenceProjections& from, TokenWindow window,
            ChunkSlots slots, const ChunkWorkspace& workspace, cudaStream_t stream) {
  // Heads that share queries and keys, as many as a block can have.
  int group_size = p.q_group == p.k_group ? std::min(p.q_group, kMaxHeads) : 1;
  while (p.q_group % group_size != 0) --group_size;
  const int64_t count = slots.end - slots.begin;
  const auto kernel = WidePrepareKernel<kPanels>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, SharedBytes(kPanels)),
        "cudaFuncSetAttribute");
  Check(LaunchChained(kernel, static_cast<unsigned>(count * (p.heads / group_size) + 1), kThreads,
                      SharedBytes(kPanels), stream, workspace.beside_scan, p, from, window, slots,
                      workspace, group_size),
        "WidePrepareKernel");
}

}  // namespace

void LaunchWidePrepare(const RecurrenceParams& p, const RecurrenceProjections& from,
                       TokenWindow window, ChunkSlots slots, const ChunkWorkspace& workspace,
                       cudaStream_t stream) {
  if (p.key_dim <= 64) {
    Launch<1>(p, from, window, slots, workspace, stream);
  } else if (p.key_dim <= 128) {
    Launch<2>(p, from, window, slots, workspace, stream);
  } else {
    Launch<4>(p, from, window, slots, workspace, stream);
  }
}

}  // namespace fla::cuda
