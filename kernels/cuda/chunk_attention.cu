#include "kernels/cuda/chunk_attention.h"
#include "kernels/cuda/chunk_attention_launch.h"
#include "kernels/cuda/context.h"

namespace fla::cuda {

void ChunkAttention(Stream& stream, const ChunkAttentionArgs& args) {
  LaunchChunkAttention(args, MakeCurrent(stream));
}

}  // namespace fla::cuda
