// A batch as the layers see it: its index arrays in device memory.
#pragma once

#include "kernels/tensor.h"

namespace fla {

struct RowRange {
  int begin = 0;
  int count = 0;
};

// N sequences, T tokens; the first num_decode sequences have one token each, the rest are prompts.
// Pointers are device memory except *_host (equal on a CPU).
struct BatchView {
  int num_tokens = 0;     // T
  int num_sequences = 0;  // N
  int num_decode = 0;
  const int* tokens = nullptr;  // [T], -1 - i for sampled[i]
  const int* sampled = nullptr;
  const int* positions = nullptr;   // [T], in the sequence
  const int* slots = nullptr;       // [N]; -1, of decode rows alone: the row is padding
  const int* cu_seqlens = nullptr;  // [N + 1]
  const int* cu_seqlens_host = nullptr;
  // Of the prompts alone, counted from their own first token: [N - num_decode + 1].
  const int* prompt_cu_seqlens = nullptr;
  const int* prompt_cu_seqlens_host = nullptr;
  const int* logits_rows = nullptr;  // rows whose logits are wanted, ascending
  int num_logits_rows = 0;
  const int* hidden_rows = nullptr;  // rows whose final hidden states are wanted, ascending
  int num_hidden_rows = 0;
  // Rows that are vectors instead of tokens, and these, one after the other: [rows, embed_dim].
  const RowRange* vector_rows_host = nullptr;
  int num_vector_rows = 0;        // ranges
  Matrix vectors;                 // f32
  const int* counting = nullptr;  // 0, 1, 2, .. T - 1
};

// Some of a batch's rows.
struct PickedRows {
  const int* rows = nullptr;  // [count], ascending; device memory
  int64_t count = 0;
};

}  // namespace fla
