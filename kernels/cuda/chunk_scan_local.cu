#include "kernels/cuda/chunk_scan.cuh"

namespace fla::cuda {

template void LaunchChunkScan<false, ScanPass::kLocal>(const RecurrenceParams&, const ScanLaunch&);
template void LaunchChunkScan<true, ScanPass::kLocal>(const RecurrenceParams&, const ScanLaunch&);

}  // namespace fla::cuda
