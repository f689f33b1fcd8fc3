#include "kernels/cuda/wide_scan.cuh"

namespace fla::cuda {

template void LaunchWideScan<false, ScanPass::kFinal>(const RecurrenceParams&, const ScanLaunch&);

}  // namespace fla::cuda
