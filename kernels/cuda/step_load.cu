#include "kernels/cuda/step_load.cuh"

namespace fla::cuda {

void LaunchLoadStep(const RecurrenceParams& p, const StepPlan& plan, cudaStream_t stream,
                    bool chained) {
  LaunchLoadStepOf<float>(p, plan, stream, chained);
}

}  // namespace fla::cuda
