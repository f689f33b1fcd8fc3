#include "kernels/cuda/step.cuh"

namespace fla::cuda {

void LaunchRecurrentF32(const RecurrenceParams& p, cudaStream_t stream, bool chained) {
  LaunchRecurrentOf<float, float>(p, stream, chained);
}

}  // namespace fla::cuda
