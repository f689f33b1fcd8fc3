#include "kernels/cuda/wide_scan.cuh"

namespace fla::cuda {

template void LaunchWideScan<false, ScanPass::kLocal>(const RecurrenceParams&, const ScanLaunch&);
template void LaunchWideScan<true, ScanPass::kLocal>(const RecurrenceParams&, const ScanLaunch&);

}  // namespace fla::cuda
