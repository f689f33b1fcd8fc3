// Linear of few inputs (low_rank_linear.cu).
#pragma once

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla::cuda {

// Of more inputs only few rows.
inline constexpr int kMaxNarrowInputs = 32, kMaxLowRankRows = 256;

// As Linear, whose checks have been made; false, and nothing done, where the shape is not for it.
// The weight must not be written by what the stream has been given just before.
bool LowRankLinear(Stream& stream, const Matrix& x, const Matrix& weight, const float* bias,
                   const Matrix& out);

}  // namespace fla::cuda
