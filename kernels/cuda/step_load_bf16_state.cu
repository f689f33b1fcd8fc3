#include "kernels/cuda/step_load.cuh"

namespace fla::cuda {

void LaunchLoadStepBf16State(const RecurrenceParams& p, int columns, cudaStream_t stream,
                             bool chained) {
  LaunchLoadStepOf<__nv_bfloat16>(p, columns, stream, chained);
}

}  // namespace fla::cuda
