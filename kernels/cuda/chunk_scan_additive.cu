#include "kernels/cuda/chunk_scan.cuh"

namespace fla::cuda {

template void LaunchChunkScan<false, ScanPass::kFinal>(const RecurrenceParams&, const ScanLaunch&);

}  // namespace fla::cuda
