// What the kernels of chunk attention share: places in matrices, where a call's tokens lie in their
// chunks, the choice of element types.
#pragma once

#include "kernels/chunk_attention.h"
#include "kernels/cuda/elements.cuh"

namespace fla::cuda {

// Row `row` of a matrix from column `column` on.
template <typename T>
__device__ __forceinline__ T* RowAt(const Matrix& matrix, int64_t row, int64_t column) {
  return RowOf<T>(matrix, row) + column;
}

// A sequence of a call: its tokens, and how many tokens of its open chunk came before.
struct ChunkSequence {
  int begin, end;
  int before;
  int64_t head;  // of the states: slot * H + h
};

// False where there is nothing to do.
__device__ __forceinline__ bool FindChunkSequence(const ChunkAttentionArgs& args, int h, int n,
                                                  ChunkSequence& sequence) {
  sequence.begin = args.cu_seqlens[n];
  sequence.end = args.cu_seqlens[n + 1];
  if (sequence.begin == sequence.end || args.slots[n] < 0) return false;
  sequence.before = args.positions[sequence.begin] % args.spec.chunk;
  sequence.head = static_cast<int64_t>(args.slots[n]) * args.spec.heads + h;
  return true;
}

// Calls f.template operator()<T>() for the element type of `dtype`.
template <typename F>
void ForElements(DType dtype, F f) {
  dtype == DType::kF32 ? f.template operator()<float>() : f.template operator()<__nv_bfloat16>();
}

}  // namespace fla::cuda
