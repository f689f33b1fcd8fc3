// Where a sequence, and a chunk of it, lie in a prefill window.
#pragma once

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

// Tokens [begin, end) of sequence n inside the window, and the slot of its first piece: the
// window's sequences are cut into chunks or segments of `tokens` tokens, and every piece has a
// slot.
struct SequenceInWindow {
  int begin, end, first_slot;
};

__device__ __forceinline__ SequenceInWindow FindSequence(const int* cu_seqlens, int n,
                                                         TokenWindow window, int tokens = kChunk) {
  const int begin = min(max(cu_seqlens[n], window.begin), window.end);
  const int end = min(max(cu_seqlens[n + 1], window.begin), window.end);
  return {begin, end, (begin - window.begin) / tokens + n};
}

// The one of sequences [low, high) that the piece of slot `slot` is of, if there is one.
__device__ __forceinline__ int FindSequenceOfSlot(const int* cu_seqlens, int low, int high,
                                                  TokenWindow window, int slot, int tokens) {
  while (high - low > 1) {  // first slots increase: find the last that is <= slot
    const int middle = (low + high) / 2;
    if (FindSequence(cu_seqlens, middle, window, tokens).first_slot <= slot) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

__device__ __forceinline__ int FindSequenceOfSlot(const RecurrenceParams& p, TokenWindow window,
                                                  int slot, int tokens) {
  return FindSequenceOfSlot(p.cu_seqlens, 0, p.num_sequences, window, slot, tokens);
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
  const int n = FindSequenceOfSlot(p, window, slot, kTokens);
  const SequenceInWindow sequence = FindSequence(p.cu_seqlens, n, window, kTokens);
  const int first_token = sequence.begin + (slot - sequence.first_slot) * kTokens;
  return {first_token, max(0, min(kTokens, sequence.end - first_token)),
          static_cast<int>(index % head_groups) * group_size, slot};
}

// Log decay of a token and head, not of a channel; 0 where there is none.
__device__ __forceinline__ float LoadLogDecay(const RecurrenceParams& p, int64_t token, int h) {
  if (p.decay == Decay::kPerHead) return p.log_decay[h];
  if (p.decay == Decay::kPerToken) return p.log_decay[token * p.decay_heads + h / p.decay_group];
  return 0.0f;
}

}  // namespace fla::cuda
