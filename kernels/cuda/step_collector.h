// Holds back the ops of a decode step that is being recorded, until it is known whether they are a
// step that one kernel runs (step_program.h).
#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "kernels/cuda/step_program.h"
#include "kernels/device.h"

namespace fla::cuda {

// Thread safety: as Stream's, one thread at a time.
class StepCollector {
 public:
  StepCollector(Device device, int multiprocessors)
      : device_(device), multiprocessors_(multiprocessors) {}

  void Add(StepOp op) { ops_.push_back(std::move(op)); }
  // Queues what was added: one kernel, or the ops' own one after the other. Every op that is not
  // collected calls this first.
  void Flush(cudaStream_t stream);

  // Those that were queued. They are to be uploaded once the capture has ended, and to be kept
  // while what was captured lives.
  std::vector<StepProgram> TakePrograms() { return std::move(programs_); }

 private:
  Device device_;
  int multiprocessors_;
  std::vector<StepOp> ops_;
  std::vector<StepProgram> programs_;
};

}  // namespace fla::cuda
