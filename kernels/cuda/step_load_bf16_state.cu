#include "kernels/cuda/step_load.cuh"

namespace fla::cuda {

void LaunchLoadStepBf16State(const RecurrenceParams& p, const StepPlan& plan, cudaStream_t stream,
                             bool chained) {
  LaunchLoadStepOf<__nv_bfloat16>(p, plan, stream, chained);
}

}  // namespace fla::cuda
