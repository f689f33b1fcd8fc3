// The first layer, which nothing precedes but a lookup, as a lookup itself, up to its convolution.
#pragma once

#include <cstdint>

#include "kernels/device.h"
#include "model/activation_arena.h"
#include "model/batch_view.h"
#include "model/mixer.h"
#include "model/norm.h"

namespace fla {

// What the first mixer's input projection makes of each token, [vocab, P]. For prompts, whose
// products take time.
//
// Thread safety: immutable after construction.
class ProjectedVocabulary {
 public:
  ProjectedVocabulary() = default;  // absent

  // On a GPU with memory to spare, of a model of so many bytes of weights; else absent. Waits.
  // embeddings [vocab, D] bf16 are what `norm` and `mixer` begin with, most_rows at a time.
  static ProjectedVocabulary Make(Stream& stream, ActivationArena& arena, Matrix embeddings,
                                  const Norm& norm, const Mixer& mixer, int64_t weight_bytes,
                                  int64_t most_rows);

  int64_t bytes() const { return static_cast<int64_t>(memory_.size()); }
  // Whether it has all that the batch begins with.
  bool Has(const BatchView& batch) const { return table_.present() && batch.num_vector_rows == 0; }
  // packed [T, P], of a batch whose rows it has.
  void LookUp(Stream& stream, const BatchView& batch, Matrix packed) const;

 private:
  Buffer memory_;
  Matrix table_;
};

}  // namespace fla
