#include "model/projected_vocabulary.h"

#include <algorithm>

#include "kernels/ops.h"

namespace fla {

ProjectedVocabulary ProjectedVocabulary::Make(Stream& stream, ActivationArena& arena,
                                              Matrix embeddings, const Norm& norm,
                                              const Mixer& mixer, int64_t weight_bytes,
                                              int64_t most_rows) {
  constexpr int64_t kMostOfWeights = 4, kMostOfFree = 8;  // a fourth, an eighth
  if (!stream.device().is_cuda() || embeddings.dtype != DType::kBF16) return {};
  const int64_t columns = mixer.input_projection().rows;
  const int64_t bytes = embeddings.rows * columns * static_cast<int64_t>(SizeOf(embeddings.dtype));
  if (bytes > weight_bytes / kMostOfWeights) return {};
  if (bytes > static_cast<int64_t>(FreeMemory(stream.device())) / kMostOfFree) return {};
  ProjectedVocabulary made;
  made.memory_ = Buffer(stream.device(), static_cast<size_t>(bytes));
  made.table_ = {made.memory_.data(), embeddings.dtype, embeddings.rows, columns, columns};
  most_rows = std::min(most_rows, embeddings.rows);
  const ActivationArena::Mark mark = arena.mark();
  const Matrix normed = arena.Take(most_rows, embeddings.cols, embeddings.dtype);
  for (int64_t begin = 0; begin < embeddings.rows; begin += most_rows) {
    const int64_t count = std::min(most_rows, embeddings.rows - begin);
    const Matrix rows = normed.Rows(0, count);
    ApplyNorm(stream, norm, embeddings.Rows(begin, count), rows);
    mixer.Project(stream, rows, made.table_.Rows(begin, count));
  }
  stream.Synchronize();
  arena.ReturnTo(mark);
  return made;
}

void ProjectedVocabulary::LookUp(Stream& stream, const BatchView& batch, Matrix packed) const {
  EmbeddingLookup(stream, batch.tokens, table_, packed, batch.sampled);
}

}  // namespace fla
