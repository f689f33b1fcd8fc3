#include "kernels/cuda/step.cuh"

namespace fla::cuda {

void LaunchRecurrentBf16State(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  LaunchRecurrentOf<__nv_bfloat16, __nv_bfloat16>(p, stream, chained);
}

}  // namespace fla::cuda
