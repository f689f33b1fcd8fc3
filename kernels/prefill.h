// A prompt's projections together with what lies around them: ops of kernels/ops.h put together, or
// run beside others. What each computes is what the ops that it names compute one after the other,
// up to the rounding of what they would have stored in between.
//
// A backend has them for the shapes where they pay. Each says whether it did the work: where it
// returns false, nothing has happened and the caller runs the ops.
#pragma once

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

// Linear, SwiGlu: out [T, I] = silu(x gates^T) * (x ups^T). weight [2 I, in]: gates first.
bool LinearSwiGlu(Stream& stream, Matrix x, Matrix weight, Matrix out);

// Linear whose columns from `late` on are made beside what the stream is given next, on
// multiprocessors that this leaves. They are there, and x is no longer read, behind AwaitLate.
// Nothing else may be late meanwhile.
bool LateLinear(Stream& stream, Matrix x, Matrix weight, int64_t late, Matrix out);
void AwaitLate(Stream& stream);

// Most tokens of BetweenRecurrences on any device.
inline constexpr int kMaxTokensBetweenRecurrences = 128;

// All projections from what a layer's recurrence leaves to what the next one's reads, of few
// tokens: Linear, AddRmsNorm, LinearSwiGlu, Linear, AddRmsNorm, Linear, as
//   residual += x output^T,                normed = RmsNorm(residual) by `norm`
//   inner = silu(normed gates^T) * (normed ups^T)
//   residual += inner down^T,              normed = RmsNorm(residual) by `next_norm`
//   out = normed next^T
// The sums that go to the residual stream are not rounded before.
struct BetweenRecurrencesArgs {
  Matrix x;         // [T, V] bf16
  Matrix output;    // [D, V]
  Matrix residual;  // [T, D] f32
  const float* norm = nullptr;
  float eps = 0.0f;
  Matrix gate_up;  // [2 I, D], gates first
  Matrix down;     // [D, I]
  const float* next_norm = nullptr;
  Matrix next;           // [P, D]
  Matrix normed, inner;  // [T, D] and [T, I] bf16: scratch
  Matrix out;            // [T, P] bf16
};
// Whether the stream's device has it for such arguments; elsewhere it must not be called. The data
// of activations is not read.
bool TakesBetweenRecurrences(Stream& stream, const BetweenRecurrencesArgs& args);
void BetweenRecurrences(Stream& stream, const BetweenRecurrencesArgs& args);

}  // namespace fla
