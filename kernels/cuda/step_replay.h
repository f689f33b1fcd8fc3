// The kernels of decode beside whose states updates wait: kernels/state_replay.h.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/recurrence_launch.h"
#include "kernels/state_replay.h"

namespace fla::cuda {

struct ReplayParams {
  char* pending;  // [S, layout.bytes]
  PendingLayout layout;
  int steps;  // r
};
ReplayParams ReplayParamsOf(const RecurrenceSpec& spec, const StateReplay& replay);

// RecurrentStep. `chained`: see LaunchChained; what waits is loaded early, as states are.
void LaunchReplayStep(const RecurrenceParams& params, const ReplayParams& replay, DType dtype,
                      cudaStream_t stream, bool chained);

// Kernels behind it begin when it has ended, so that they may load states early.
void LaunchApplyPending(const PendingUpdates& args, cudaStream_t stream);

}  // namespace fla::cuda
