// A prompt's projections with the op behind them as one kernel: ops of kernels/ops.h put together.
// What each computes is what the ops that it names compute one after the other, up to the rounding
// of what they would have stored in between.
//
// A backend has them for the shapes where they pay. Each says whether it did the work: where it
// returns false, nothing has happened and the caller runs the ops.
#pragma once

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

// Linear, SwiGlu: out [T, I] = silu(x gates^T) * (x ups^T). weight [2 I, in]: gates first.
bool LinearSwiGlu(Stream& stream, Matrix x, Matrix weight, Matrix out);

}  // namespace fla
