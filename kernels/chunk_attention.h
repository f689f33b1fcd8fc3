// Linear attention in which a token sees its own chunk in one way and all chunks before it in
// another, so that the chunk size is part of the model and not a matter of speed.
//
// Per head, with the sequence cut into chunks of C tokens from its first, and with S [K, V] and
// z [K] the sums of k_s v_s^T and of k_s over all chunks before that of token t:
//
//   o_t = inside_t + S^T q_t / (q_t . z + eps)
//
//   inside_t = sum_s (q_t . k_s) v_s / (sum_s q_t . k_s + eps)      kLinear
//   inside_t = sum_s softmax_s(scale q_t . k_s) v_s                 kSoftmax
//
// s being the tokens of t's chunk up to t itself. Where the chunk does not matter (one sum, with or
// without a divisor) the recurrence of kernels/recurrence.h and ops.h's Normalizer do the work.
//
// kernels/README.md derives what is kept of the open chunk. Follows FlashLinearAttention and
// LightningAttention of Edifice.
#pragma once

#include <cstdint>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

// How the tokens of one chunk see each other.
enum class ChunkRule : uint8_t { kLinear, kSoftmax };

struct ChunkAttentionSpec {
  ChunkRule rule = ChunkRule::kLinear;
  int chunk = 0;  // C
  int heads = 0;  // H, of q, k, v and out
  int key_dim = 0;
  int value_dim = 0;
  float scale = 1.0f;  // of kSoftmax
  float eps = 0.0f;
};

// Floats of a head's open chunk, the one that its sequence has not filled yet:
//   kLinear   its S [K, V], then its z [K]
//   kSoftmax  its keys [C, K], then its values [C, V]; rows past the open tokens are undefined
constexpr int64_t OpenChunkFloats(const ChunkAttentionSpec& spec) {
  const int64_t key_dim = spec.key_dim, value_dim = spec.value_dim;
  return spec.rule == ChunkRule::kLinear ? key_dim * value_dim + key_dim
                                         : spec.chunk * (key_dim + value_dim);
}

// One call over N packed sequences of T tokens in all; decode is a call whose sequences have one
// token each. Rows of the matrices may be strided; they share one dtype, f32 or bf16. Sums are f32.
// New sequences have states of zeros.
struct ChunkAttentionArgs {
  ChunkAttentionSpec spec;
  Matrix q;                         // [T, H * K]
  Matrix k;                         // [T, H * K]
  Matrix v;                         // [T, H * V]
  void* state = nullptr;            // [S, H, K, V]: S, updated as chunks close
  DType state_dtype = DType::kF32;  // f32, or bf16 where the backend supports it
  float* normalizer = nullptr;      // [S, H, K]: z
  float* open = nullptr;            // [S, H, OpenChunkFloats]
  const int* positions = nullptr;   // [T] of each token in its sequence, from 0; device memory
  const int* slots = nullptr;       // [N] no two equal; -1 where all sequences have one token: none
  const int* cu_seqlens = nullptr;  // [N + 1] first token of each sequence; device memory
  const int* cu_seqlens_host = nullptr;  // the same in host memory (equal pointers on a CPU)
  int num_sequences = 0;                 // N
  Matrix out;                            // [T, H * V]
};

// Sequences of any length, 0 included, cut into calls anywhere: the outputs are those of one call
// with the whole sequence up to rounding.
void ChunkAttention(Stream& stream, const ChunkAttentionArgs& args);

}  // namespace fla
