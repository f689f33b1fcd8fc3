#include "kernels/cuda/context.h"
#include "kernels/cuda/recurrence.h"
#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

void RecurrentStep(Stream& stream, const RecurrenceArgs& args) {
  LaunchRecurrent(ParamsOf(args), args.q.dtype, MakeCurrent(stream));
}

void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args) {
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const PrefillPlan plan = PlanPrefill(args, stream.cuda()->num_multiprocessors, IsHopper());
  const size_t bytes = PrefillScratchBytes(args, plan);
  void* const scratch = bytes > 0 ? stream.Scratch(bytes) : nullptr;
  LaunchChunkedPrefill(args, plan, scratch, cuda_stream);
}

}  // namespace fla::cuda
