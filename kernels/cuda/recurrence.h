// The recurrence on an NVIDIA GPU (sm_80 and newer). Contracts: kernels/recurrence.h. What runs how
// fast, and why: README.md beside this.
#pragma once

#include "kernels/recurrence.h"
#include "kernels/state_replay.h"

namespace fla::cuda {

// Throw std::invalid_argument for shapes and dtypes that have no kernel, DeviceError for a failed
// launch. bf16 state needs bf16 activations.
void RecurrentStep(Stream& stream, const RecurrenceArgs& args);
void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args);
bool TakesProjections(const RecurrenceArgs& args);
bool TakesReplay(const RecurrenceSpec& spec);
void ApplyPending(Stream& stream, const PendingUpdates& args);
bool LeavesRoom(const RecurrenceSpec& spec, int tokens);

}  // namespace fla::cuda
