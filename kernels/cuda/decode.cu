#include "kernels/cuda/context.h"
#include "kernels/cuda/decode.h"

namespace fla::cuda {

bool DecodeLinear(Stream& stream, const DecodeLinearArgs& args) {
  return LaunchDecodeLinear(args, MakeCurrent(stream), stream.cuda()->chained);
}

bool PrepareStep(Stream& stream, const PrepareStepArgs& args) {
  return LaunchPrepareStep(args, MakeCurrent(stream), stream.cuda()->chained);
}

}  // namespace fla::cuda
