#include "kernels/cuda/step_collector.h"

#include <utility>

#include "kernels/cuda/decode.h"
#include "kernels/cuda/errors.h"

namespace fla::cuda {
namespace {

// While one lives, this thread may allocate although it is capturing a stream.
class AllocationsAllowed {
 public:
  AllocationsAllowed() {
    Check(cudaThreadExchangeStreamCaptureMode(&mode_), "cudaThreadExchangeStreamCaptureMode");
  }
  ~AllocationsAllowed() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  AllocationsAllowed(const AllocationsAllowed&) = delete;
  AllocationsAllowed& operator=(const AllocationsAllowed&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;  // then: the mode before
};

void Launch(const StepOp& op, cudaStream_t stream) {
  constexpr bool kChained = true;
  if (const auto* const linear = std::get_if<DecodeLinearArgs>(&op)) {
    LaunchDecodeLinear(*linear, stream, kChained);
  } else if (const auto* const prepare = std::get_if<PrepareStepArgs>(&op)) {
    LaunchPrepareStep(*prepare, stream, kChained);
  } else {
    const auto& recurrence = std::get<StepRecurrence>(op);
    LaunchRecurrent(recurrence.params, recurrence.dtype, recurrence.plan, stream, kChained);
  }
}

}  // namespace

void StepCollector::Flush(cudaStream_t stream) {
  if (ops_.empty()) return;
  const std::vector<StepOp> ops = std::exchange(ops_, {});
  const AllocationsAllowed allowed;
  if (std::optional<StepProgram> program = StepProgram::Compile(ops, device_, multiprocessors_)) {
    program->Launch(stream);
    programs_.push_back(*std::move(program));
    return;
  }
  for (const StepOp& op : ops) Launch(op, stream);
}

}  // namespace fla::cuda
