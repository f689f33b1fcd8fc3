// A long prompt's residual stream, kept as the norm that its layers read and the bits that rounding
// took from that: AddRmsNorm then reads and writes 8 bytes an element instead of 12, and at the
// speed of memory that is its time.
#pragma once

#include <cstdint>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

// x [T, D] = (normed + rest) / (scales * weight), an element for itself. `normed` is x's RmsNorm by
// `weight` in bf16, `rest` the next eight bits of each element: x is known to 2^-16 of itself (once
// in 256 times 2^-15), which is a hundredth of what a layer's sum loses as bf16.
struct FoldedResidual {
  Matrix normed;                  // [T, D] bf16, contiguous
  int8_t* rest = nullptr;         // [T, D], in 2^-8 of the last place of `normed`
  float* scales = nullptr;        // [T], rsqrt(mean(x^2) + eps)
  const float* weight = nullptr;  // [D], IsFoldable each
};

// Rows below this number stay in the caches, where bytes cost little.
inline constexpr int64_t kMinFoldedRows = 2048;
inline constexpr int64_t kMaxFoldedColumns = 4096;

// Whether the stream's device has the following for rows of so many columns.
bool FoldsResiduals(Stream& stream, int64_t columns);

// Whether a column can be folded by such a weight: not by zero, nor where x / weight overflows.
constexpr bool IsFoldable(float weight) {
  constexpr float kLeast = 1.0f / (1 << 30);
  const float size = weight < 0 ? -weight : weight;
  return size >= kLeast && size <= 1 / kLeast;
}

// Folds x [T, D] f32 by folded.weight: all else of `folded` is written.
void FoldResidual(Stream& stream, Matrix x, float eps, const FoldedResidual& folded);

// x += delta [T, D] bf16, from now on folded by `weight`.
void AddToFolded(Stream& stream, FoldedResidual& folded, Matrix delta, const float* weight,
                 float eps);

// out[i] = x[rows[i]]. out [., D] f32; rows in device memory.
void UnfoldRows(Stream& stream, const FoldedResidual& folded, const int* rows, Matrix out);

}  // namespace fla
