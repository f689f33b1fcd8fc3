// The convolution of long sequences as layers of the family have it: bf16, four taps, SiLU, no
// bias, and the L2 norm of queries and keys behind it.
#pragma once

#include "kernels/cuda/context.h"
#include "kernels/ops.h"

namespace fla::cuda {

constexpr int kConvolutionTile = 32;      // tokens of a thread,
constexpr int kShortConvolutionTile = 8;  // or so many where that leaves multiprocessors idle

// The sequence that holds `token`: the last one that begins at or before it, for empty ones that
// begin there come before.
__device__ __forceinline__ int SequenceOf(const ShortConvolutionArgs& args, int token) {
  int sequence = 0;
  for (int after = args.num_sequences; after - sequence > 1;) {
    const int middle = (sequence + after) / 2;
    (args.cu_seqlens[middle] <= token ? sequence : after) = middle;
  }
  return sequence;
}

// Blocks of `block_channels` channels, and of tiles of `tile_tokens` tokens, over args.x: tile
// blockIdx.z gridDim.y + blockIdx.y.
struct ConvolutionTiles {
  int tile_tokens;
  dim3 grid;
};
ConvolutionTiles PlanConvolutionTiles(Stream& stream, const ShortConvolutionArgs& args,
                                      int64_t block_channels);

bool CanTileConvolution(const ShortConvolutionArgs& args);
bool CanTileNorm(int head_dim);

// out, the norm if CanTileNorm(head_dim), and the states where no two tiles read the same: says
// whether it has.
bool TileConvolution(Stream& stream, const ShortConvolutionArgs& args);

}  // namespace fla::cuda
