// The recurrence for head sizes outside those of recurrence_launch.h.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {

// K not a multiple of 16 up to 256, or V not one up to 512.
bool NeedsGenericRecurrence(const RecurrenceSpec& spec);

// All tokens of all sequences, one after the other; `step`: sequence n is token n. Throws
// std::invalid_argument where a column of the state does not fit in shared memory.
void LaunchGenericRecurrent(const RecurrenceArgs& args, bool step, cudaStream_t stream);

}  // namespace fla::cuda
