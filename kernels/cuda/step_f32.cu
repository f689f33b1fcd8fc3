#include "kernels/cuda/step.cuh"

namespace fla::cuda {

void LaunchRecurrentF32(const RecurrenceParams& p, cudaStream_t stream) {
  LaunchRecurrentOf<float, float>(p, stream);
}

}  // namespace fla::cuda
