#include "kernels/cuda/step.cuh"

namespace fla::cuda {

void LaunchRecurrentBf16(const RecurrenceParams& p, int columns, cudaStream_t stream,
                         bool chained) {
  LaunchRecurrentOf<__nv_bfloat16, float>(p, columns, stream, chained);
}

}  // namespace fla::cuda
