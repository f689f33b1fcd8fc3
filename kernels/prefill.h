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

}  // namespace fla
