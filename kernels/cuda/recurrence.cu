#include "kernels/cuda/context.h"
#include "kernels/cuda/recurrence.h"
#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

void RecurrentStep(Stream& stream, const RecurrenceArgs& args) {
  LaunchRecurrent(ParamsOf(args), args.q.dtype, MakeCurrent(stream));
}

void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args) {
  const size_t bytes = PrefillScratchBytes(args);
  void* const scratch = bytes > 0 ? stream.Scratch(bytes) : nullptr;
  LaunchChunkedPrefill(args, scratch, MakeCurrent(stream));
}

}  // namespace fla::cuda
