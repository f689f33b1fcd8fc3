#include "kernels/cuda/step.cuh"

namespace fla::cuda {

void LaunchRecurrentBf16(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  LaunchRecurrentOf<__nv_bfloat16, float>(p, stream, chained);
}

}  // namespace fla::cuda
