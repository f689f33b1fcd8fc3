#include "kernels/cuda/wide_scan.cuh"

namespace fla::cuda {

template void LaunchWideScan<true, ScanPass::kFinal>(const RecurrenceParams&, const ScanLaunch&);

}  // namespace fla::cuda
