#include "kernels/cuda/context.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/step_collector.h"

namespace fla::cuda {

bool StreamLinear(Stream& stream, const DecodeLinearArgs& args) {
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const size_t bytes = StreamLinearScratch(args);
  void* const scratch = bytes > 0 ? stream.Scratch(bytes) : nullptr;
  return LaunchStreamLinear(args, scratch, cuda_stream, stream.cuda()->can_chain);
}

int MaxDecodeLinearRows(Stream& stream) {
  MakeCurrent(stream);
  return IsHopper() ? kMaxStreamLinearRows : kMaxDecodeLinearRows;
}

bool DecodeLinear(Stream& stream, const DecodeLinearArgs& args) {
  StepCollector* const collector = stream.cuda()->collector.get();
  if (collector != nullptr && args.x.rows == 1 && HasDecodeLinear(args)) {
    collector->Add(args);
    return true;
  }
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const bool chained = stream.cuda()->chained;
  return LaunchDecodeLinear(args, cuda_stream, chained) || StreamLinear(stream, args);
}

bool PrepareStep(Stream& stream, const PrepareStepArgs& args) {
  StepCollector* const collector = stream.cuda()->collector.get();
  if (collector != nullptr && args.q.rows == 1 && HasPrepareStep(args)) {
    collector->Add(args);
    return true;
  }
  return LaunchPrepareStep(args, MakeCurrent(stream), stream.cuda()->chained);
}

}  // namespace fla::cuda
