// The CPU backend of kernels/recurrence.h. States are f32 (std::invalid_argument otherwise).
//
// Threads share the work by (sequence, head) and, where those are few, by blocks of value columns.
// A sequence's result is bitwise the same for any number of threads and in any batch.
#pragma once

#include "kernels/recurrence.h"

namespace fla::cpu {

void RecurrentStep(Stream& stream, const RecurrenceArgs& args);
void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args);

}  // namespace fla::cpu
