#include "kernels/cuda/step.cuh"

namespace fla::cuda {

void LaunchRecurrentF32(const RecurrenceParams& p, int columns, cudaStream_t stream, bool chained) {
  LaunchRecurrentOf<float, float>(p, columns, stream, chained);
}

}  // namespace fla::cuda
