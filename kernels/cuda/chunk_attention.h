// Chunk attention on an NVIDIA GPU (sm_80 and newer). Contracts: kernels/chunk_attention.h.
#pragma once

#include "kernels/chunk_attention.h"

namespace fla::cuda {

// Throws std::invalid_argument for heads that have no kernel, DeviceError for a failed launch.
void ChunkAttention(Stream& stream, const ChunkAttentionArgs& args);

}  // namespace fla::cuda
