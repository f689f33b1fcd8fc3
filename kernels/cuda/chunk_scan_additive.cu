#include "kernels/cuda/chunk_scan.cuh"

namespace fla::cuda {

void LaunchChunkScanAdditive(const RecurrenceParams& p, const PrefillPlan& plan, TokenWindow window,
                             const ChunkWorkspace& workspace, cudaStream_t stream) {
  LaunchChunkScan<false>(p, plan, window, workspace, stream);
}

}  // namespace fla::cuda
