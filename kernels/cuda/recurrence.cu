#include "kernels/cuda/context.h"
#include "kernels/cuda/recurrence.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/step.cuh"
#include "kernels/cuda/step_generic.h"

namespace fla::cuda {

void RecurrentStep(Stream& stream, const RecurrenceArgs& args) {
  if (NeedsGenericRecurrence(args.spec)) {
    return LaunchGenericRecurrent(args, /*step=*/true, MakeCurrent(stream));
  }
  const RecurrenceParams params = ParamsOf(args);
  if (params.num_sequences == 0) return;
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const bool chained = stream.cuda()->chained;
  if (args.q.dtype == DType::kF32) {
    LaunchRecurrentF32(params, cuda_stream, chained);
  } else if (params.bf16_state) {
    LaunchRecurrentBf16State(params, cuda_stream, chained);
  } else {
    LaunchRecurrentBf16(params, cuda_stream, chained);
  }
}

void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args) {
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  if (NeedsGenericRecurrence(args.spec)) {
    return LaunchGenericRecurrent(args, /*step=*/false, cuda_stream);
  }
  const PrefillPlan plan = PlanPrefill(args, stream.cuda()->num_multiprocessors, IsHopper());
  const size_t bytes = PrefillScratchBytes(args, plan);
  void* const scratch = bytes > 0 ? stream.Scratch(bytes) : nullptr;
  LaunchChunkedPrefill(args, plan, scratch, cuda_stream);
}

}  // namespace fla::cuda
