// The kernels behind LaunchRecurrent (recurrence_launch.h). `chained`: see LaunchChained; states
// are loaded while the kernel before still runs.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

// RecurrentKernel (step.cuh). A block has `columns` columns of a state: 32, or 16 where K is a
// multiple of 32.
void LaunchRecurrentF32(const RecurrenceParams& p, int columns, cudaStream_t stream, bool chained);
void LaunchRecurrentBf16(const RecurrenceParams& p, int columns, cudaStream_t stream, bool chained);
void LaunchRecurrentBf16State(const RecurrenceParams& p, int columns, cudaStream_t stream,
                              bool chained);

// LoadStepKernel (step_load.cuh), which HasLoadStep says that it is for.
void LaunchLoadStep(const RecurrenceParams& p, const StepPlan& plan, cudaStream_t stream,
                    bool chained);
void LaunchLoadStepBf16State(const RecurrenceParams& p, const StepPlan& plan, cudaStream_t stream,
                             bool chained);

// TileStepKernel (step_tile.cu), which HasTileStep says that it is for.
void LaunchTileStep(const RecurrenceParams& p, cudaStream_t stream, bool chained);

}  // namespace fla::cuda
