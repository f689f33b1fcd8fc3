// Between the scan's two passes over segments (scan_segment.cuh): the state that every segment
// starts from, S_{i+1} = M_i S_i + N_i, one segment after the other, in f32. The columns of S are
// independent, and so are, for the additive rule, its rows.
#include "kernels/cuda/chunk_window.cuh"

namespace fla::cuda {
namespace {

// A sequence that is cut: the slot of its first segment, and how many it has.
struct SegmentsOfSequence {
  int first_slot, count;
};
__device__ __forceinline__ SegmentsOfSequence FindSegments(const RecurrenceParams& p, int n,
                                                           TokenWindow window, int tokens) {
  const SequenceInWindow sequence = FindSequence(p.cu_seqlens, n, window, tokens);
  const int count = (sequence.end - sequence.begin + tokens - 1) / tokens;
  return {sequence.first_slot, count > 1 ? count : 0};
}

__device__ __forceinline__ float LoadPool(const RecurrenceParams& p, int64_t i) {
  return p.bf16_state ? __bfloat162float(static_cast<const __nv_bfloat16*>(p.state)[i])
                      : static_cast<const float*>(p.state)[i];
}
__device__ __forceinline__ int64_t PoolNumber(const RecurrenceParams& p, int n, int h) {
  return static_cast<int64_t>(p.slots[n]) * p.heads + h;
}
__device__ __forceinline__ int64_t SegmentNumber(const RecurrenceParams& p, int slot, int h) {
  return static_cast<int64_t>(slot) * p.heads + h;
}

// Additive rule. Grid (K V / kElementThreads, H, N): a thread an element of S.
constexpr int kElementThreads = 128, kSegmentsAtOnce = 8;

__global__ void __launch_bounds__(kElementThreads)
    CombineElementsKernel(const RecurrenceParams p, const TokenWindow window,
                          const SegmentWorkspace segments) {
  const int n = blockIdx.z, h = blockIdx.y, size = p.key_dim * p.value_dim;
  const int i = blockIdx.x * kElementThreads + threadIdx.x, channel = i / p.value_dim;
  const SegmentsOfSequence cut = FindSegments(p, n, window, segments.tokens);
  if (cut.count == 0 || i >= size) return;
  const bool per_channel = p.decay == Decay::kPerChannel;
  float state = LoadPool(p, PoolNumber(p, n, h) * size + i);
  // The first segment has started from the sequence's state: its N is already the next one's.
  for (int begin = 0; begin < cut.count; begin += kSegmentsAtOnce) {
    float local[kSegmentsAtOnce], decay[kSegmentsAtOnce];
#pragma unroll
    for (int j = 0; j < kSegmentsAtOnce; ++j) {
      if (begin + j >= cut.count - 1) break;
      const int64_t number = SegmentNumber(p, cut.first_slot + begin + j, h);
      local[j] = segments.states[number * size + i];
      decay[j] = begin + j == 0     ? 0.0f
                 : !segments.decays ? 1.0f
                 : per_channel      ? segments.decays[number * p.key_dim + channel]
                                    : segments.decays[number];
    }
#pragma unroll
    for (int j = 0; j < kSegmentsAtOnce; ++j) {
      if (begin + j >= cut.count) break;
      segments.states[SegmentNumber(p, cut.first_slot + begin + j, h) * size + i] = state;
      if (begin + j < cut.count - 1)
        state = begin + j == 0 ? local[j] : decay[j] * state + local[j];
    }
  }
}

// Delta rule. Grid (V / kColumns, H, N): a block has kColumns columns of S in shared memory. A
// thread has one row of M, and kParts threads share a row's columns. M passes through registers,
// the next piece while the last one is multiplied: it does not depend on S.
constexpr int kMapThreads = 512;

template <int kMaxK, int kColumns>
struct alignas(16) CombineScratch {
  static constexpr int kParts = kMapThreads / kMaxK;
  float4 state[kMaxK][kColumns / 4];
  float sums[kParts][kColumns][kMaxK + 4];  // 4: rows of a column from different banks
};

template <int kMaxK, int kColumns>
__global__ void __launch_bounds__(kMapThreads)
    CombineMapsKernel(const RecurrenceParams p, const TokenWindow window,
                      const SegmentWorkspace segments) {
  using Scratch = CombineScratch<kMaxK, kColumns>;
  constexpr int kPartK = kMaxK / Scratch::kParts, kPiece = kPartK < 32 ? kPartK : 32;
  constexpr int kOwn = kMaxK * kColumns / kMapThreads;  // elements of S that a thread sums up
  static_assert(kPartK % kPiece == 0 && kOwn * kMapThreads == kMaxK * kColumns);
  __shared__ Scratch scratch;
  const int n = blockIdx.z, h = blockIdx.y, K = p.key_dim, V = p.value_dim;
  const SegmentsOfSequence cut = FindSegments(p, n, window, segments.tokens);
  if (cut.count == 0) return;
  const int row = threadIdx.x % kMaxK, part = threadIdx.x / kMaxK;
  const auto number = [&](int segment) { return SegmentNumber(p, cut.first_slot + segment, h); };
  // Element i of a thread is (own_row + i * kOwnRows, own_column).
  constexpr int kOwnRows = kMapThreads / kColumns;
  const int own_row = threadIdx.x / kColumns, own_column = threadIdx.x % kColumns;
  const auto own_offset = [&](int64_t state, int i) {
    return (state * K + own_row + i * kOwnRows) * V + blockIdx.x * kColumns + own_column;
  };
  const auto is_inside = [&](int i) { return own_row + i * kOwnRows < K; };
  // Of segments in front of the last one only: the last has no M.
  const auto load_piece = [&](float(&m)[kPiece], int segment, int piece) {
#pragma unroll
    for (int j = 0; j < kPiece; ++j) {
      const int column = part * kPartK + piece * kPiece + j;
      const bool inside = segment < cut.count - 1 && row < K && column < K;
      m[j] = inside ? segments.maps[(number(segment) * K + column) * K + row] : 0.0f;
    }
  };

  float own[kOwn] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (is_inside(i)) own[i] = LoadPool(p, own_offset(PoolNumber(p, n, h), i));
  }
  float m[kPiece];
  load_piece(m, 1, 0);
  for (int segment = 0; segment < cut.count; ++segment) {
    // What the segment starts from takes the place of what it leaves of no state.
    float local[kOwn] = {};
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (!is_inside(i)) continue;
      float* const target = segments.states + own_offset(number(segment), i);
      if (segment < cut.count - 1) local[i] = *target;
      *target = own[i];
    }
    if (segment == cut.count - 1) break;
    if (segment > 0) {
      float sums[kColumns] = {};
#pragma unroll
      for (int piece = 0; piece < kPartK / kPiece; ++piece) {
        const bool last = piece == kPartK / kPiece - 1;
        float next[kPiece];
        load_piece(next, last ? segment + 1 : segment, last ? 0 : piece + 1);
#pragma unroll
        for (int j = 0; j < kPiece; ++j) {
#pragma unroll
          for (int c = 0; c < kColumns; c += 4) {
            const float4 s = scratch.state[part * kPartK + piece * kPiece + j][c / 4];
            sums[c] += m[j] * s.x, sums[c + 1] += m[j] * s.y;
            sums[c + 2] += m[j] * s.z, sums[c + 3] += m[j] * s.w;
          }
        }
#pragma unroll
        for (int j = 0; j < kPiece; ++j) m[j] = next[j];
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) scratch.sums[part][c][row] = sums[c];
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      own[i] = local[i];
      if (segment > 0) {
#pragma unroll
        for (int j = 0; j < Scratch::kParts; ++j) {
          own[i] += scratch.sums[j][own_column][own_row + i * kOwnRows];
        }
      }
      reinterpret_cast<float*>(scratch.state[own_row + i * kOwnRows])[own_column] = own[i];
    }
    __syncthreads();
  }
}

template <int kMaxK, int kColumns>
void LaunchCombineMaps(const RecurrenceParams& p, TokenWindow window,
                       const SegmentWorkspace& segments, cudaStream_t stream) {
  const dim3 grid(p.value_dim / kColumns, p.heads, p.num_sequences);
  // Columns that fewer share a multiprocessor with take less long: where there is room.
  if constexpr (kMaxK >= 128 && kColumns == 8) {
    if (2 * grid.x * grid.y * grid.z <= static_cast<unsigned>(Multiprocessors())) {
      return LaunchCombineMaps<kMaxK, 4>(p, window, segments, stream);
    }
  }
  CombineMapsKernel<kMaxK, kColumns><<<grid, kMapThreads, 0, stream>>>(p, window, segments);
  CheckLaunch("CombineMapsKernel");
}

}  // namespace

void LaunchSegmentCombine(const RecurrenceParams& p, Update update, TokenWindow window,
                          const SegmentWorkspace& segments, cudaStream_t stream) {
  if (update == Update::kAdditive) {
    const int blocks = (p.key_dim * p.value_dim + kElementThreads - 1) / kElementThreads;
    CombineElementsKernel<<<dim3(blocks, p.heads, p.num_sequences), kElementThreads, 0, stream>>>(
        p, window, segments);
    CheckLaunch("CombineElementsKernel");
    return;
  }
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return LaunchCombineMaps<64, 8>(p, window, segments, stream);
    case 128:
      return LaunchCombineMaps<128, 8>(p, window, segments, stream);
    default:
      return LaunchCombineMaps<256, 8>(p, window, segments, stream);
  }
}

}  // namespace fla::cuda
