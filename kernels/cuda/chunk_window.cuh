// Where a sequence lies in a prefill window.
#pragma once

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

// Tokens [begin, end) of sequence n inside the window, and the slot of its first chunk.
struct SequenceInWindow {
  int begin, end, first_slot;
};

__device__ __forceinline__ SequenceInWindow FindSequence(const int* cu_seqlens, int n,
                                                         TokenWindow window) {
  const int begin = min(max(cu_seqlens[n], window.begin), window.end);
  const int end = min(max(cu_seqlens[n + 1], window.begin), window.end);
  return {begin, end, (begin - window.begin) / kChunk + n};
}

}  // namespace fla::cuda
