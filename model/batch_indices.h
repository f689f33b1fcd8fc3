// The arrays of a batch on their way to the device.
#pragma once

#include <array>
#include <vector>

#include "kernels/device.h"
#include "model/batch_view.h"
#include "model/model.h"
#include "model/staging.h"

namespace fla {

// Throws std::invalid_argument for a batch that Model::Forward does not take.
void CheckBatch(const Batch& batch, const ModelConfig& config, int slots);

// True for a batch that decodes only, and wants the logits of every row and nothing else.
bool IsPureDecode(const Batch& batch);

// True for a batch of tokens of one prompt, or of its last piece, that wants the logits of its last
// row and nothing else.
bool IsPurePrompt(const Batch& batch);

// Thread safety: one thread at a time, that which owns the stream.
class BatchIndices {
 public:
  // Takes device memory for batches of up to `max_tokens` tokens, or vectors of size `embed_dim`
  // where that is not 0.
  BatchIndices(Stream& stream, int max_tokens, int embed_dim);

  // Queues a copy of the batch's arrays; the view is valid until the next upload.
  BatchView Upload(Stream& stream, const Batch& batch);

  // The view of a decode batch of `rows` rows, at a place that depends on `rows` alone: for ops
  // that are recorded once and replayed after UploadDecode.
  BatchView DecodeView(int rows, const int* sampled) const;
  // Brings a batch for which IsPureDecode holds there, padded to `rows` rows, without a copy: it
  // stands between two steps of a GPU.
  void UploadDecode(Stream& stream, const Batch& batch, int rows);
  // The same for batches for which IsPurePrompt holds, of up to `tokens` tokens. In host memory,
  // which is valid until the next call, the prompt has all of them. An empty batch leaves the
  // states as they are.
  BatchView PromptView(int tokens, const int* sampled);
  void UploadPrompt(Stream& stream, const Batch& batch, int tokens);

  size_t bytes() const { return device_.size() + counting_device_.size() + vectors_.size(); }

 private:
  Staging staging_;
  Buffer device_;
  std::vector<int> counting_;  // 0, 1, 2, ... max_tokens
  Buffer counting_device_;
  std::vector<int> host_;                  // of the last upload
  std::array<int, 2> prompt_bounds_ = {};  // of the last PromptView
  const int embed_dim_;
  Staging vector_staging_;
  Buffer vectors_;
  std::vector<RowRange> vector_rows_;  // of the last Upload
};

}  // namespace fla
