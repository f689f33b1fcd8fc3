#include "kernels/cuda/step.cuh"

namespace fla::cuda {

void LaunchRecurrentBf16State(const RecurrenceParams& p, int columns, cudaStream_t stream,
                              bool chained) {
  LaunchRecurrentOf<__nv_bfloat16, __nv_bfloat16>(p, columns, stream, chained);
}

}  // namespace fla::cuda
