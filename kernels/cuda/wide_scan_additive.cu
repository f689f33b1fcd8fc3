#include "kernels/cuda/wide_scan.cuh"

namespace fla::cuda {

void LaunchWideScanAdditive(const RecurrenceParams& p, int slices_per_block, TokenWindow window,
                            const ChunkWorkspace& workspace, cudaStream_t stream) {
  LaunchWideScan<false>(p, slices_per_block, window, workspace, stream);
}

}  // namespace fla::cuda
