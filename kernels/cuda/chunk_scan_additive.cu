#include "kernels/cuda/chunk_scan.cuh"

namespace fla::cuda {

void LaunchChunkScanAdditive(const RecurrenceParams& p, const ChunkRecord& record,
                             TokenWindow window, const void* workspace, cudaStream_t stream) {
  LaunchChunkScan<false>(p, record, window, workspace, stream);
}

}  // namespace fla::cuda
