// The GPU's versions of kernels/folded_residual.h.
#pragma once

#include "kernels/folded_residual.h"

namespace fla::cuda {

bool FoldsResiduals(int64_t columns);
void FoldResidual(Stream& stream, Matrix x, float eps, const FoldedResidual& folded);
void AddToFolded(Stream& stream, const FoldedResidual& folded, Matrix delta, const float* weight,
                 float eps);
void UnfoldRows(Stream& stream, const FoldedResidual& folded, const int* rows, Matrix out);

}  // namespace fla::cuda
