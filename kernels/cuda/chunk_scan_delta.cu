#include "kernels/cuda/chunk_scan.cuh"

namespace fla::cuda {

template void LaunchChunkScan<true, ScanPass::kFinal>(const RecurrenceParams&, const ScanLaunch&);

}  // namespace fla::cuda
