#include "kernels/cuda/step_load.cuh"

namespace fla::cuda {

void LaunchLoadStep(const RecurrenceParams& p, int columns, cudaStream_t stream, bool chained) {
  LaunchLoadStepOf<float>(p, columns, stream, chained);
}

}  // namespace fla::cuda
