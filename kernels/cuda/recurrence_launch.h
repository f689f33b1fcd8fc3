// The recurrence's kernels on a bare CUDA stream: what recurrence.cu forwards to and what the
// benchmark times. No call here allocates or synchronises.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/errors.h"
#include "kernels/recurrence.h"

namespace fla::cuda {

// Tokens in a chunk: one tensor-core tile. Small enough that a decay product inside a chunk is four
// levels of halving, large enough for the state to be read once in 16 tokens.
inline constexpr int kChunk = 16;

// RecurrenceArgs as the kernels take it. x_group = H / x_heads.
struct RecurrenceParams {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  int64_t q_stride, k_stride, v_stride, out_stride;  // elements between rows
  const float* log_decay;
  const float* beta;
  void* state;
  const int* slots;
  const int* cu_seqlens;  // null: sequence n is token n
  int num_sequences, heads, key_dim, value_dim;
  int q_group, k_group, v_group, decay_group, decay_heads;
  float scale;
  Decay decay;
  bool bf16_state;
  bool paired_rows;  // every row of q, k and out starts on a pair of elements
};

// Only tokens [begin, end) of a prefill: bounds the workspace. A sequence that reaches over the end
// goes on in the next window from its state.
struct TokenWindow {
  int begin, end;
};

// What the token-parallel kernel leaves for the scan: one record of `bytes` per (chunk slot, head).
// Chunk i of sequence n has slot (first token of n - window begin) / kChunk + n + i: no two chunks
// share one, and no prefix sum is needed. Byte offsets in a record; absent parts are empty.
struct ChunkRecord {
  int attention;  // P [C, C] bf16: P[i, j] = scale q_i^T decay(j -> i) k_j for j <= i, else 0
  int transform;  // T [C, C] bf16, kDelta: inverse of (I + strictly lower part of beta K K^T
                  // decay), columns times beta
  int decay;      // scalar decay: f32 [2, C], from the chunk's start to i, from i to its end;
                  // per channel: f32 [K], over the whole chunk
  int query;      // per channel: bf16 [C, K], scale q_i decay(start -> i)
  int key_end;    // per channel: bf16 [C, K], k_i decay(i -> end)
  int key_start;  // per channel and kDelta: bf16 [C, K], k_i decay(start -> i)
  int bytes;
};
ChunkRecord ChunkRecordOf(const RecurrenceSpec& spec);

// Throws std::invalid_argument, naming the field, for what has no kernel.
RecurrenceParams ParamsOf(const RecurrenceArgs& args);

// Runs every token of every sequence one after the other: decode (cu_seqlens null) and, for f32
// activations, prefill.
void LaunchRecurrent(const RecurrenceParams& params, DType dtype, cudaStream_t stream);

size_t PrefillScratchBytes(const RecurrenceArgs& args);
void LaunchChunkedPrefill(const RecurrenceArgs& args, void* scratch, cudaStream_t stream);

// The two kernels of a prefill window. Rows of q, k and v are 16-byte aligned, bf16.
void LaunchChunkPrepare(const RecurrenceParams& params, Update update, const ChunkRecord& record,
                        TokenWindow window, void* workspace, cudaStream_t stream);
void LaunchChunkScanAdditive(const RecurrenceParams& params, const ChunkRecord& record,
                             TokenWindow window, const void* workspace, cudaStream_t stream);
void LaunchChunkScanDelta(const RecurrenceParams& params, const ChunkRecord& record,
                          TokenWindow window, const void* workspace, cudaStream_t stream);

}  // namespace fla::cuda
