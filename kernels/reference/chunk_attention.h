// kernels/chunk_attention.h in double precision, from its definition: every token looks at all
// tokens before it, nothing is carried along. The oracle of the backends; shares no code with them.
#pragma once

#include <span>
#include <vector>

#include "kernels/chunk_attention.h"

namespace fla::reference {

// One whole sequence of T tokens, rows contiguous, host memory.
struct ChunkAttentionInputs {
  ChunkAttentionSpec spec;
  std::span<const double> q;  // [T, H, K]
  std::span<const double> k;  // [T, H, K]
  std::span<const double> v;  // [T, H, V]
};

struct ChunkAttentionResult {
  std::vector<double> out;         // [T, H, V]
  std::vector<double> state;       // [H, K, V]: S over the chunks that T tokens fill
  std::vector<double> normalizer;  // [H, K]
};

ChunkAttentionResult ChunkAttention(const ChunkAttentionInputs& inputs);

}  // namespace fla::reference
