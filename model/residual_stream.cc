#include "model/residual_stream.h"

#include "kernels/ops.h"

namespace fla {

ResidualStream::ResidualStream(Stream& stream, ActivationArena& arena, int64_t tokens,
                               int64_t hidden, DType dtype, bool folds)
    : stream_(stream), arena_(arena) {
  if (folds) {
    normed_ = arena.Take(tokens, hidden, dtype);
    folded_ = {.normed = normed_,
               .rest = static_cast<int8_t*>(arena.TakeBytes(tokens * hidden)),
               .scales = static_cast<float*>(arena.Take(tokens, 1, DType::kF32).data)};
    inputs_ = arena.mark();
  }
  rows_ = arena.Take(tokens, hidden, DType::kF32);
  if (folds) return;
  // In the same memory, so that fewer bytes pass through the caches.
  normed_ = delta_ = arena.Take(tokens, hidden, dtype);
}

void ResidualStream::Begin(const Norm& norm) {
  if (!folded_) return ApplyNorm(stream_, norm, rows_, normed_);
  folded_->weight = norm.weight;
  FoldResidual(stream_, rows_, norm.eps, *folded_);
  arena_.ReturnTo(inputs_);
  delta_ = arena_.Take(normed_.rows, normed_.cols, normed_.dtype);
}

void ResidualStream::Add(const Norm& norm) {
  if (folded_) return AddToFolded(stream_, *folded_, delta_, norm.weight, norm.eps);
  normed_ = delta_;
  AddAndNorm(stream_, norm, rows_, delta_, normed_);
}

void ResidualStream::Pick(const PickedRows& picked) {
  const Matrix all = rows_;
  rows_ = arena_.Take(picked.count, normed_.cols, DType::kF32);
  if (folded_) {
    UnfoldRows(stream_, *folded_, picked.rows, rows_);
    folded_.reset();
  } else {
    GatherRows(stream_, all, picked.rows, rows_);
  }
  delta_ = delta_.Rows(0, picked.count);
}

}  // namespace fla
