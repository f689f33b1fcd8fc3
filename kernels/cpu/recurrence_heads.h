// The vectorised part of the CPU recurrence: one head of one sequence. Compiled once per
// instruction set; the best one that the machine has is chosen at run time.
#pragma once

#include <cstddef>

#include "kernels/recurrence.h"

namespace fla::cpu {

// Rows of the workspace are padded to this many floats: the widest vector.
inline constexpr int kLanePadding = 16;
constexpr int PadLanes(int count) {
  return (count + kLanePadding - 1) / kLanePadding * kLanePadding;
}

struct HeadTask {
  const RecurrenceArgs* args = nullptr;
  int sequence = 0;
  int head = 0;
  int column_begin = 0;        // first of the value columns to compute
  int column_count = 0;        // how many
  float* workspace = nullptr;  // 64-byte aligned, contents undefined
};

// One token. `workspace` holds StepWorkspace floats.
size_t StepWorkspace(const RecurrenceSpec& spec);
void StepHead(const HeadTask& task);

// All tokens of a sequence, chunk by chunk. `workspace` holds PrefillWorkspace floats.
size_t PrefillWorkspace(const RecurrenceSpec& spec, int column_count);
void PrefillHead(const HeadTask& task);

}  // namespace fla::cpu
