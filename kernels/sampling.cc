// The page that picks a backend.
#include "kernels/sampling.h"

#include "kernels/check.h"
#include "kernels/cpu/ops.h"
#include "kernels/philox.h"

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/ops.h"
#endif

namespace fla {

void Sample(Stream& stream, const SampleArgs& args) {
  FLA_CHECK(args.logits.dtype == DType::kF32 && args.logits.cols > 0);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::Sample(stream, args);
#endif
  cpu::Sample(stream, args);
}

size_t SampleScratchBytes(Device device, int64_t rows, int64_t vocab_size) {
  return device.is_cuda() ? static_cast<size_t>(rows * vocab_size) * sizeof(float) : 0;
}

float UniformAt(uint64_t seed, int64_t position) {
  return OpenUniform(Philox4x32(seed, static_cast<uint64_t>(position)).words[0]);
}

}  // namespace fla
