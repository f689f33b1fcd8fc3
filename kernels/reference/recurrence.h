// The recurrence of kernels/recurrence.h in double precision, one token after the other: the oracle
// that every backend is tested against. It shares no code with them.
#pragma once

#include <span>
#include <vector>

#include "kernels/recurrence.h"

namespace fla::reference {

// Shapes as in RecurrenceArgs, rows contiguous, host memory. A span that the spec has no use for
// (log_decay of kNone, beta of kAdditive) may be empty.
struct RecurrenceInputs {
  RecurrenceSpec spec;
  std::span<const double> q;          // [T, q_heads, K]
  std::span<const double> k;          // [T, k_heads, K]
  std::span<const double> v;          // [T, v_heads, V]
  std::span<const double> log_decay;  // [H] | [T, decay_heads] | [T, decay_heads, K]
  std::span<const double> beta;       // [T, H]
  std::span<const int> slots;         // [N]
  std::span<const int> cu_seqlens;    // [N + 1]
};

// Returns out [T, H, V] and updates `state` [S, H, K, V]. Throws std::out_of_range where a span is
// shorter than its shape says.
std::vector<double> Recurrence(const RecurrenceInputs& inputs, std::span<double> state);

}  // namespace fla::reference
