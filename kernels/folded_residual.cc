// The page that picks a backend. A CPU keeps residual streams as they are.
#include "kernels/folded_residual.h"

#include "kernels/check.h"

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/folded_residual.h"
#endif

namespace fla {

bool FoldsResiduals([[maybe_unused]] Stream& stream, [[maybe_unused]] int64_t columns) {
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::FoldsResiduals(columns);
#endif
  return false;
}

void FoldResidual(Stream& stream, Matrix x, [[maybe_unused]] float eps,
                  const FoldedResidual& folded) {
  FLA_CHECK(FoldsResiduals(stream, x.cols) && x.dtype == DType::kF32);
  FLA_CHECK(folded.normed.dtype == DType::kBF16 && folded.normed.contiguous());
  FLA_CHECK(folded.normed.rows == x.rows && folded.normed.cols == x.cols);
#ifdef FLA_WITH_CUDA
  cuda::FoldResidual(stream, x, eps, folded);
#endif
}

void AddToFolded(Stream& stream, FoldedResidual& folded, Matrix delta, const float* weight,
                 [[maybe_unused]] float eps) {
  FLA_CHECK(FoldsResiduals(stream, delta.cols) && delta.dtype == DType::kBF16);
  FLA_CHECK(folded.normed.rows == delta.rows && folded.normed.cols == delta.cols);
#ifdef FLA_WITH_CUDA
  cuda::AddToFolded(stream, folded, delta, weight, eps);
#endif
  folded.weight = weight;
}

void UnfoldRows(Stream& stream, const FoldedResidual& folded, [[maybe_unused]] const int* rows,
                Matrix out) {
  FLA_CHECK(FoldsResiduals(stream, out.cols) && out.dtype == DType::kF32);
  FLA_CHECK(folded.normed.cols == out.cols);
#ifdef FLA_WITH_CUDA
  cuda::UnfoldRows(stream, folded, rows, out);
#endif
}

}  // namespace fla
