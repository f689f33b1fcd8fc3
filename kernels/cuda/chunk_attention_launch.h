// The kernels of chunk attention, free of what a Stream is made of.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/chunk_attention.h"

namespace fla::cuda {

// As ChunkAttention, on `stream` of the current GPU.
void LaunchChunkAttention(const ChunkAttentionArgs& args, cudaStream_t stream);

// The two kernels, one after the other: the first only reads what all of its blocks read (z and the
// open chunk's keys and values), the second brings that up to date.
void LaunchChunkScan(const ChunkAttentionArgs& args, cudaStream_t stream);
void LaunchChunkFinish(const ChunkAttentionArgs& args, cudaStream_t stream);

}  // namespace fla::cuda
