// What a block of a scan does: which tokens it walks with which columns of which state.
//
// Without segments it walks a sequence, from its state in the pool back to there. Sequences that
// are cut are scanned twice. What tokens do to a state is affine, S_end = M S_begin + N, so
//
//   local   every segment but the last, all at once: N, by a scan from no state, and M. For the
//           additive rule M is the decay over the segment (segment_decays.cu); for the delta rule
//           [K, K], got by the same scan from the identity with v = 0: K more columns. The first
//           segment starts from the sequence's state, and needs no M. No outputs.
//   combine segment_combine.cu: the state that each segment starts from
//   final   every segment, all at once, from that state: the outputs, and the last one's state
//
// A sequence of one segment is left out of all but the final pass.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/chunk_window.cuh"

namespace fla::cuda {

// Tokens [begin, end) of a sequence, none where there is nothing.
struct Segment {
  int sequence, begin, end;
  int slot;                // of the segment; 0 where sequences are not cut
  int chunk_slot;          // of its first chunk of kChunkTokens
  bool is_first, is_last;  // of its sequence
};

// Segment of slot `index` or, where sequences are not cut, sequence `index`.
template <int kChunkTokens>
__device__ __forceinline__ Segment FindSegment(const RecurrenceParams& p, TokenWindow window,
                                               const SegmentWorkspace& segments, int index) {
  const int length = segments.tokens;
  if (length == 0) {
    const SequenceInWindow whole = FindSequence(p.cu_seqlens, index, window, kChunkTokens);
    return {index, whole.begin, whole.end, 0, whole.first_slot, true, true};
  }
  const int n = FindSequenceOfSlot(p, window, index, length);
  const SequenceInWindow whole = FindSequence(p.cu_seqlens, n, window, kChunkTokens);
  const int i = index - FindSequence(p.cu_seqlens, n, window, length).first_slot;
  const int last = (whole.end - whole.begin - 1) / length;
  if (whole.begin == whole.end || i > last) return {n, 0, 0, index, 0, false, false};
  const int begin = whole.begin + i * length;
  return {n,
          begin,
          min(whole.end, begin + length),
          index,
          whole.first_slot + i * (length / kChunkTokens),
          i == 0,
          i == last};
}

struct ScanWork : Segment {
  int head;
  int column, num_columns;  // the block's first column of those of the state or of M
  bool is_map;              // they are those of M
};

// Of block `index` in a grid (blocks of `width` columns, of the state then of M; H; sequences or
// slots of segments).
template <ScanPass kPass, bool kDelta, int kChunkTokens, typename Index>
__device__ __forceinline__ ScanWork FindScanWork(const RecurrenceParams& p, TokenWindow window,
                                                 const SegmentWorkspace& segments, int width,
                                                 const Index& index) {
  ScanWork work = {FindSegment<kChunkTokens>(p, window, segments, index.z)};
  const int block = index.x, state_blocks = (p.value_dim + width - 1) / width;
  work.head = index.y;
  work.is_map = kPass == ScanPass::kLocal && kDelta && block >= state_blocks;
  work.column = (work.is_map ? block - state_blocks : block) * width;
  work.num_columns = work.is_map ? p.key_dim : p.value_dim;
  const bool is_known = work.is_last || (work.is_map && work.is_first);
  if (kPass == ScanPass::kLocal && is_known) work.end = work.begin;
  return work;
}

inline unsigned ScanColumnBlocks(const RecurrenceParams& p, ScanPass pass, bool delta, int width) {
  const int map_columns = pass == ScanPass::kLocal && delta ? p.key_dim : 0;
  return (p.value_dim + width - 1) / width + (map_columns + width - 1) / width;
}
inline unsigned ScanPieces(const RecurrenceParams& p, TokenWindow window,
                           const SegmentWorkspace& segments) {
  return segments.tokens > 0 ? SlotsOfWindow(window, p.num_sequences, segments.tokens)
                             : p.num_sequences;
}

// Brings a thread's elements of the state (or M) and takes them away. `for_each` calls visit(float&
// element, bool inside, int channel, int further) for each of them, `further` the column behind
// the thread's first one, `column`; no channel is before `channel`. `whole`: all of them are
// inside.
//
// A block does this once, and most of what it costs is to fetch the instructions. So where states
// are whole, addresses are a multiplication or an addition apart.
template <ScanPass kPass, bool kDelta>
class ScanState {
 public:
  __device__ __forceinline__ ScanState(const RecurrenceParams& p, const SegmentWorkspace& segments,
                                       const ScanWork& work, int channel, int column, bool whole)
      : p_(p),
        segments_(segments),
        work_(work),
        channel_(channel),
        column_(column),
        whole_(whole) {}

  template <typename ForEach>
  __device__ __forceinline__ void Load(const ForEach& for_each) const {
    if (kPass == ScanPass::kLocal && !work_.is_first) {
      for_each([&](float& s, bool inside, int channel, int further) {
        s = inside && work_.is_map && channel == column_ + further ? 1.0f : 0.0f;
      });
      return;
    }
    const bool pool = kPass == ScanPass::kLocal || !IsCut();
    const int64_t offset = pool ? PoolOffset() : SegmentOffset();
    if (pool && p_.bf16_state) {
      LoadFrom(static_cast<const __nv_bfloat16*>(p_.state) + offset, for_each);
    } else {
      LoadFrom((pool ? static_cast<const float*>(p_.state) : segments_.states) + offset, for_each);
    }
  }

  template <typename ForEach>
  __device__ __forceinline__ void Store(const ForEach& for_each) const {
    if constexpr (kPass == ScanPass::kLocal) {
      const int K = p_.key_dim;
      const bool is_map = kDelta && work_.is_map;
      float* const x = is_map ? segments_.maps + (SegmentNumber() * K + column_) * K
                              : segments_.states + SegmentOffset();
      const int channel_stride = is_map ? 1 : p_.value_dim, column_stride = is_map ? K : 1;
      for_each([&](float& s, bool inside, int channel, int further) {
        if (inside) x[channel * channel_stride + further * column_stride] = s;
      });
      return;
    }
    if (IsCut() && !work_.is_last) return;
    if (p_.bf16_state) {
      StoreTo(static_cast<__nv_bfloat16*>(p_.state) + PoolOffset(), for_each);
    } else {
      StoreTo(static_cast<float*>(p_.state) + PoolOffset(), for_each);
    }
  }

 private:
  // x: of channel 0 of `column_`.
  template <typename T, typename ForEach>
  __device__ __forceinline__ void LoadFrom(const T* x, const ForEach& for_each) const {
    if (whole_) {
      const T* const first = x + channel_ * p_.value_dim;
      for_each([&](float& s, bool, int channel, int further) {
        s = static_cast<float>(first[int64_t{channel - channel_} * p_.value_dim + further]);
      });
    } else {
      for_each([&](float& s, bool inside, int channel, int further) {
        s = inside ? static_cast<float>(x[channel * p_.value_dim + further]) : 0.0f;
      });
    }
  }
  template <typename T, typename ForEach>
  __device__ __forceinline__ void StoreTo(T* x, const ForEach& for_each) const {
    if (whole_) {
      T* const first = x + channel_ * p_.value_dim;
      for_each([&](float& s, bool, int channel, int further) {
        first[int64_t{channel - channel_} * p_.value_dim + further] = static_cast<T>(s);
      });
    } else {
      for_each([&](float& s, bool inside, int channel, int further) {
        if (inside) x[channel * p_.value_dim + further] = static_cast<T>(s);
      });
    }
  }

  __device__ __forceinline__ bool IsCut() const { return !work_.is_first || !work_.is_last; }
  __device__ __forceinline__ int64_t SegmentNumber() const {
    return static_cast<int64_t>(work_.slot) * p_.heads + work_.head;
  }
  // Of channel 0 of `column_`.
  __device__ __forceinline__ int64_t SegmentOffset() const {
    return SegmentNumber() * p_.key_dim * p_.value_dim + column_;
  }
  __device__ __forceinline__ int64_t PoolOffset() const {
    return (static_cast<int64_t>(p_.slots[work_.sequence]) * p_.heads + work_.head) * p_.key_dim *
               p_.value_dim +
           column_;
  }

  const RecurrenceParams& p_;
  const SegmentWorkspace& segments_;
  const ScanWork& work_;
  const int channel_, column_;
  const bool whole_;
};

}  // namespace fla::cuda
