// Where a sequence, and a chunk of it, lie in a prefill window.
#pragma once

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

// Tokens [begin, end) of sequence n inside the window, and the slot of its first chunk.
struct SequenceInWindow {
  int begin, end, first_slot;
};

template <int kTokens = kChunk>
__device__ __forceinline__ SequenceInWindow FindSequence(const int* cu_seqlens, int n,
                                                         TokenWindow window) {
  const int begin = min(max(cu_seqlens[n], window.begin), window.end);
  const int end = min(max(cu_seqlens[n + 1], window.begin), window.end);
  return {begin, end, (begin - window.begin) / kTokens + n};
}

struct ChunkWork {
  int first_token, num_tokens, first_head, slot;
};

// Chunk of kTokens and head (group) of number `index`, heads fastest; num_tokens 0 if there is
// none.
template <int kTokens = kChunk>
__device__ __forceinline__ ChunkWork FindWork(const RecurrenceParams& p, TokenWindow window,
                                              int64_t index, int head_groups, int group_size) {
  const int slot = static_cast<int>(index / head_groups);
  int low = 0, high = p.num_sequences;  // first slots increase: find the last that is <= slot
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (FindSequence<kTokens>(p.cu_seqlens, middle, window).first_slot <= slot) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const SequenceInWindow sequence = FindSequence<kTokens>(p.cu_seqlens, low, window);
  const int first_token = sequence.begin + (slot - sequence.first_slot) * kTokens;
  return {first_token, max(0, min(kTokens, sequence.end - first_token)),
          static_cast<int>(index % head_groups) * group_size, slot};
}

}  // namespace fla::cuda
