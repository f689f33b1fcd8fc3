// The CPU backend of kernels/chunk_attention.h. States are f32 (std::invalid_argument otherwise).
//
// Threads share the work by (sequence, head). A sequence's result is bitwise the same for any
// number of threads and in any batch.
#pragma once

#include "kernels/chunk_attention.h"

namespace fla::cpu {

void ChunkAttention(Stream& stream, const ChunkAttentionArgs& args);

}  // namespace fla::cpu
