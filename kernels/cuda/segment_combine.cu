// Between the scan's two passes over segments (scan_segment.cuh): the state that every segment
// starts from, S_{i+1} = M_i S_i + N_i, one segment after the other, in f32. The columns of S are
// independent, and so are, for the additive rule, its rows.
#include "kernels/cuda/chunk_window.cuh"
#include "kernels/cuda/divide_up.h"

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
// thread has two neighbouring rows of M, and kParts threads share their columns. M passes through
// registers, the next piece while the last one is multiplied: it does not depend on S.
// kWhole: K is kMaxK, so that addresses are constants; they took more instructions than the sums.
constexpr int kMapThreads = 512;

template <int kMaxK, int kColumns>
struct alignas(16) CombineScratch {
  static constexpr int kParts = 2 * kMapThreads / kMaxK;
  float4 state[kMaxK][kColumns / 4];
  float sums[kParts][kColumns][kMaxK + 4];  // 4: rows of a column from different banks
};

template <int kMaxK, bool kWhole, int kColumns>
__global__ void __launch_bounds__(kMapThreads)
    CombineMapsKernel(const RecurrenceParams p, const TokenWindow window,
                      const SegmentWorkspace segments) {
  using Scratch = CombineScratch<kMaxK, kColumns>;
  constexpr int kPartK = kMaxK / Scratch::kParts, kPiece = kPartK < 16 ? kPartK : 16;
  constexpr int kOwn = kMaxK * kColumns / kMapThreads;  // elements of S that a thread sums up
  static_assert(kPartK % kPiece == 0 && kOwn * kMapThreads == kMaxK * kColumns);
  static_assert(sizeof(Scratch) <= 48 * 1024);
  __shared__ Scratch scratch;
  const int n = blockIdx.z, h = blockIdx.y, K = kWhole ? kMaxK : p.key_dim, V = p.value_dim;
  const SegmentsOfSequence cut = FindSegments(p, n, window, segments.tokens);
  if (cut.count == 0) return;
  const int row = threadIdx.x % (kMaxK / 2) * 2, part = threadIdx.x / (kMaxK / 2);
  // Element i of a thread is (own_row + i * kOwnRows, own_column).
  constexpr int kOwnRows = kMapThreads / kColumns;
  const int own_row = threadIdx.x / kColumns, own_column = threadIdx.x % kColumns;
  const auto is_inside = [&](int i) { return kWhole || own_row + i * kOwnRows < K; };
  const int64_t own_offset = static_cast<int64_t>(own_row) * V + blockIdx.x * kColumns + own_column;
  const int own_stride = kOwnRows * V;
  const int64_t first_number = SegmentNumber(p, cut.first_slot, h);
  // Of segments in front of the last one only: the last has no M.
  const auto load_piece = [&](float2(&m)[kPiece], int segment, int piece) {
    const int column = part * kPartK + piece * kPiece;
    const float* const first =
        segments.maps + ((first_number + segment * p.heads) * K + column) * K + row;
    const bool is_map = segment < cut.count - 1 && (kWhole || row < K);
#pragma unroll
    for (int j = 0; j < kPiece; ++j) {
      const bool inside = is_map && (kWhole || column + j < K);
      m[j] = inside ? *reinterpret_cast<const float2*>(first + j * K) : make_float2(0.0f, 0.0f);
    }
  };

  float own[kOwn] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (is_inside(i)) {
      own[i] = LoadPool(p, PoolNumber(p, n, h) * K * V + own_offset + i * own_stride);
    }
  }
  float2 m[kPiece];
  load_piece(m, 1, 0);
  for (int segment = 0; segment < cut.count; ++segment) {
    // What the segment starts from takes the place of what it leaves of no state.
    float local[kOwn] = {};
    float* const states = segments.states + (first_number + segment * p.heads) * K * V + own_offset;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (!is_inside(i)) continue;
      if (segment < cut.count - 1) local[i] = states[i * own_stride];
      states[i * own_stride] = own[i];
    }
    if (segment == cut.count - 1) break;
    if (segment > 0) {
      float2 sums[kColumns] = {};
#pragma unroll
      for (int piece = 0; piece < kPartK / kPiece; ++piece) {
        const bool last = piece == kPartK / kPiece - 1;
        float2 next[kPiece];
        load_piece(next, last ? segment + 1 : segment, last ? 0 : piece + 1);
#pragma unroll
        for (int j = 0; j < kPiece; ++j) {
#pragma unroll
          for (int c = 0; c < kColumns; c += 4) {
            const float4 s = scratch.state[part * kPartK + piece * kPiece + j][c / 4];
            const float of_columns[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              sums[c + e].x += m[j].x * of_columns[e];
              sums[c + e].y += m[j].y * of_columns[e];
            }
          }
        }
#pragma unroll
        for (int j = 0; j < kPiece; ++j) m[j] = next[j];
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        *reinterpret_cast<float2*>(&scratch.sums[part][c][row]) = sums[c];
      }
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

template <int kMaxK, bool kWhole, int kColumns = 8>
void LaunchCombineMapsKernel(const RecurrenceParams& p, TokenWindow window,
                             const SegmentWorkspace& segments, cudaStream_t stream) {
  static_assert(16 % kColumns == 0);  // of which V is a multiple
  const dim3 grid(p.value_dim / kColumns, p.heads, p.num_sequences);
  CombineMapsKernel<kMaxK, kWhole, kColumns><<<grid, kMapThreads, 0, stream>>>(p, window, segments);
  CheckLaunch("CombineMapsKernel");
}

template <int kMaxK>
void LaunchCombineMaps(const RecurrenceParams& p, TokenWindow window,
                       const SegmentWorkspace& segments, cudaStream_t stream) {
  if (p.key_dim < kMaxK) {
    return LaunchCombineMapsKernel<kMaxK, false>(p, window, segments, stream);
  }
  // Columns that fewer share a multiprocessor with take less long: where there is room. Twice four
  // on one wait for each other's barriers less than eight do.
  if constexpr (kMaxK >= 128) {
    const int blocks = p.value_dim / 8 * p.heads * p.num_sequences;
    if (blocks <= Multiprocessors()) {
      return LaunchCombineMapsKernel<kMaxK, true, 4>(p, window, segments, stream);
    }
  }
  LaunchCombineMapsKernel<kMaxK, true>(p, window, segments, stream);
}

}  // namespace

void LaunchSegmentCombine(const RecurrenceParams& p, Update update, TokenWindow window,
                          const SegmentWorkspace& segments, cudaStream_t stream) {
  if (update == Update::kAdditive) {
    const int blocks = DivideUp(p.key_dim * p.value_dim, kElementThreads);
    CombineElementsKernel<<<dim3(blocks, p.heads, p.num_sequences), kElementThreads, 0, stream>>>(
        p, window, segments);
    CheckLaunch("CombineElementsKernel");
    return;
  }
  switch (MaxKeyDim(p.key_dim)) {
    case 64:
      return LaunchCombineMaps<64>(p, window, segments, stream);
    case 128:
      return LaunchCombineMaps<128>(p, window, segments, stream);
    default:
      return LaunchCombineMaps<256>(p, window, segments, stream);
  }
}

}  // namespace fla::cuda
