// The residual stream of a batch, and the norm of it that its layers read.
#pragma once

#include <optional>

#include "kernels/folded_residual.h"
#include "model/activation_arena.h"
#include "model/batch_view.h"
#include "model/norm.h"

namespace fla {

// x [T, D]: the batch's inputs, to which each layer's parts add. It is f32 whatever the dtype, as
// its rounding would add up over the layers; or folded into its norm (kernels/folded_residual.h).
//
// Thread safety: one thread at a time, that which owns the stream.
class ResidualStream {
 public:
  // Takes memory from the arena for as long as it lives. `folds`: that is a folded stream's. Its
  // device must fold, all norms' weights be foldable, and Pick come before rows() is read again.
  ResidualStream(Stream& stream, ActivationArena& arena, int64_t tokens, int64_t hidden,
                 DType dtype, bool folds);

  // x itself: at first the inputs, to be written before all else.
  Matrix rows() const { return rows_; }
  // What the layers read, [T, D], and what they are to write to be added. The two may lie in the
  // same memory: nothing reads the one once the other is written.
  Matrix normed() const { return normed_; }
  Matrix delta() const { return delta_; }

  // normed = norm(x). For the first norm, before anything else is taken from the arena.
  void Begin(const Norm& norm);
  // x += delta, then normed = norm(x).
  void Add(const Norm& norm);
  // From now on x is these of its rows alone, and so is delta; normed is all rows' until Add.
  void Pick(const PickedRows& picked);

 private:
  Stream& stream_;
  ActivationArena& arena_;
  Matrix rows_, normed_, delta_;
  std::optional<FoldedResidual> folded_;
  ActivationArena::Mark inputs_;  // of a folded stream, what follows is needed until Begin
};

}  // namespace fla
