// The vectorised part of the CPU's chunk attention: one head of one sequence. Compiled once per
// instruction set; the best one that the machine has is chosen at run time.
#pragma once

#include <cstddef>

#include "kernels/chunk_attention.h"

namespace fla::cpu {

struct ChunkHeadTask {
  const ChunkAttentionArgs* args = nullptr;
  int sequence = 0;  // not empty
  int head = 0;
  float* workspace = nullptr;  // 64-byte aligned, contents undefined
};

// One token that does not fill its chunk. `workspace` holds ChunkStepWorkspace floats.
size_t ChunkStepWorkspace(const ChunkAttentionSpec& spec);
void ChunkStepHead(const ChunkHeadTask& task);

// Any tokens. `workspace` holds ChunkPiecesWorkspace floats.
size_t ChunkPiecesWorkspace(const ChunkAttentionSpec& spec);
void ChunkPiecesHead(const ChunkHeadTask& task);

}  // namespace fla::cpu
