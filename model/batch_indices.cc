#include "model/batch_indices.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "kernels/check.h"
#include "kernels/ops.h"

namespace fla {
namespace {

[[noreturn]] void BadBatch(const std::string& what) {
  throw std::invalid_argument("batch: " + what);
}

// Ints of all arrays of a batch of T tokens in at most as many sequences.
size_t MostInts(int max_tokens) { return 7 * static_cast<size_t>(max_tokens) + 2; }

}  // namespace

void CheckBatch(const Batch& batch, const ModelConfig& config, int slots) {
  const size_t sequences = batch.slots.size();
  if (batch.cu_seqlens.size() != sequences + 1 || batch.positions.size() != sequences ||
      batch.cu_seqlens.front() != 0 ||
      batch.cu_seqlens.back() != static_cast<int>(batch.tokens.size())) {
    BadBatch("arrays do not fit together");
  }
  if (batch.num_decode < 0 || batch.num_decode > static_cast<int>(sequences)) {
    BadBatch("num_decode");
  }
  for (size_t i = 0; i < sequences; ++i) {
    const int length = batch.cu_seqlens[i + 1] - batch.cu_seqlens[i];
    if (length < 1 || (static_cast<int>(i) < batch.num_decode && length != 1)) {
      BadBatch("length of sequence " + std::to_string(i));
    }
    if (batch.slots[i] < 0 || batch.slots[i] >= slots) BadBatch("slot out of range");
  }
  int row = 0;
  const auto check_tokens_to = [&](int end) {
    for (; row < end; ++row) {
      const int token = batch.tokens[row];
      if (token >= config.vocab_size || (token < 0 && batch.sampled == nullptr)) {
        BadBatch("token " + std::to_string(token) + " is out of range");
      }
    }
  };
  size_t vectors = 0;
  for (const RowRange& range : batch.vector_rows) {
    if (range.begin < std::max(row, batch.num_decode) || range.count < 1 ||
        range.count > static_cast<int>(batch.tokens.size()) - range.begin) {
      BadBatch("vector rows");
    }
    check_tokens_to(range.begin);
    for (; row < range.begin + range.count; ++row) {
      if (batch.tokens[row] != 0) BadBatch("a token in vector rows");
    }
    vectors += static_cast<size_t>(range.count);
  }
  check_tokens_to(static_cast<int>(batch.tokens.size()));
  if (batch.vectors.size() != vectors * config.embed_dim ||
      (vectors > 0 && config.embed_dim == 0)) {
    BadBatch("vectors");
  }
  const auto check_rows = [&](const std::vector<int>& rows, const char* what) {
    int least = 0;
    for (const int row : rows) {
      if (row < least || row >= static_cast<int>(batch.tokens.size())) BadBatch(what);
      least = row + 1;
    }
  };
  check_rows(batch.logits_rows, "logits row");
  if (config.vocab_size == 0 && !batch.logits_rows.empty()) BadBatch("logits without a vocabulary");
  check_rows(batch.hidden_rows, "hidden row");
}

bool IsPureDecode(const Batch& batch) {
  // Ascending rows, as many as there are, are all of them.
  return batch.num_decode == static_cast<int>(batch.tokens.size()) &&
         batch.logits_rows.size() == batch.tokens.size() && batch.hidden_rows.empty();
}

bool IsPurePrompt(const Batch& batch) {
  return batch.num_decode == 0 && batch.slots.size() == 1 && batch.logits_rows.size() == 1 &&
         batch.logits_rows.front() + size_t{1} == batch.tokens.size() &&
         batch.hidden_rows.empty() && batch.vector_rows.empty();
}

BatchIndices::BatchIndices(Stream& stream, int max_tokens, int embed_dim)
    : staging_(stream.device()),
      device_(stream.device(), MostInts(max_tokens) * sizeof(int)),
      counting_(max_tokens + 1),
      counting_device_(stream.device(), (static_cast<size_t>(max_tokens) + 1) * sizeof(int)),
      embed_dim_(embed_dim),
      vector_staging_(stream.device()),
      vectors_(stream.device(), static_cast<size_t>(max_tokens) * embed_dim * sizeof(float)) {
  std::iota(counting_.begin(), counting_.end(), 0);
  stream.CopyToDevice(counting_device_.data(), counting_.data(), counting_device_.size());
}

BatchView BatchIndices::Upload(Stream& stream, const Batch& batch) {
  const int sequences = static_cast<int>(batch.slots.size());
  host_.clear();
  const auto add = [this](const std::vector<int>& values) {
    host_.insert(host_.end(), values.begin(), values.end());
    return host_.size() - values.size();
  };
  const size_t at_tokens = add(batch.tokens), at_positions = host_.size();
  for (int i = 0; i < sequences; ++i) {
    const int length = batch.cu_seqlens[i + 1] - batch.cu_seqlens[i];
    for (int t = 0; t < length; ++t) host_.push_back(batch.positions[i] + t);
  }
  const size_t at_slots = add(batch.slots), at_cu_seqlens = add(batch.cu_seqlens);
  const size_t at_prompts = host_.size();
  for (int i = batch.num_decode; i <= sequences; ++i) {
    host_.push_back(batch.cu_seqlens[i] - batch.num_decode);
  }
  const size_t at_rows = add(batch.logits_rows), at_hidden = add(batch.hidden_rows);

  const size_t bytes = host_.size() * sizeof(int);
  if (bytes > device_.size()) BadBatch("more tokens than the model was loaded for");
  std::memcpy(staging_.Fill(bytes), host_.data(), bytes);
  staging_.Upload(stream, device_.data(), bytes);
  vector_rows_ = batch.vector_rows;
  const int64_t num_vectors =
      batch.vectors.empty() ? 0 : static_cast<int64_t>(batch.vectors.size()) / embed_dim_;
  if (num_vectors > 0) {
    const size_t vector_bytes = batch.vectors.size() * sizeof(float);
    std::memcpy(vector_staging_.Fill(vector_bytes), batch.vectors.data(), vector_bytes);
    vector_staging_.Upload(stream, vectors_.data(), vector_bytes);
  }
  const int* const device = device_.as<int>();
  return {.num_tokens = static_cast<int>(batch.tokens.size()),
          .num_sequences = sequences,
          .num_decode = batch.num_decode,
          .tokens = device + at_tokens,
          .sampled = batch.sampled,
          .positions = device + at_positions,
          .slots = device + at_slots,
          .cu_seqlens = device + at_cu_seqlens,
          .cu_seqlens_host = host_.data() + at_cu_seqlens,
          .prompt_cu_seqlens = device + at_prompts,
          .prompt_cu_seqlens_host = host_.data() + at_prompts,
          .logits_rows = device + at_rows,
          .num_logits_rows = static_cast<int>(batch.logits_rows.size()),
          .hidden_rows = device + at_hidden,
          .num_hidden_rows = static_cast<int>(batch.hidden_rows.size()),
          .vector_rows_host = vector_rows_.data(),
          .num_vector_rows = static_cast<int>(vector_rows_.size()),
          .vectors = {vectors_.data(), DType::kF32, num_vectors, embed_dim_, embed_dim_},
          .counting = counting_device_.as<int>()};
}

BatchView BatchIndices::DecodeView(int rows, const int* sampled) const {
  const int* const device = device_.as<int>();
  const int* const counting = counting_device_.as<int>();
  return {.num_tokens = rows,
          .num_sequences = rows,
          .num_decode = rows,
          .tokens = device,
          .sampled = sampled,
          .positions = device + rows,
          .slots = device + 2 * rows,
          .cu_seqlens = counting,
          .cu_seqlens_host = counting_.data(),
          .prompt_cu_seqlens = counting,  // of no prompts
          .prompt_cu_seqlens_host = counting_.data(),
          .logits_rows = counting,
          .num_logits_rows = rows};
}

void BatchIndices::UploadDecode(Stream& stream, const Batch& batch, int rows) {
  FLA_CHECK(batch.tokens.size() <= static_cast<size_t>(rows));
  host_.clear();
  const auto add = [&](const std::vector<int>& values, int padding) {
    host_.insert(host_.end(), values.begin(), values.end());
    host_.insert(host_.end(), rows - values.size(), padding);
  };
  add(batch.tokens, 0);
  add(batch.positions, 0);
  add(batch.slots, -1);
  WriteInts(stream, host_, device_.as<int>());
}

BatchView BatchIndices::PromptView(int tokens, const int* sampled) {
  const int* const device = device_.as<int>();
  const int* const bounds = device + 2 * tokens;
  prompt_bounds_ = {0, tokens};
  return {.num_tokens = tokens,
          .num_sequences = 1,
          .tokens = device,
          .sampled = sampled,
          .positions = device + tokens,
          .slots = bounds + 2,
          .cu_seqlens = bounds,
          .cu_seqlens_host = prompt_bounds_.data(),
          .prompt_cu_seqlens = bounds,
          .prompt_cu_seqlens_host = prompt_bounds_.data(),
          .logits_rows = bounds + 3,
          .num_logits_rows = 1};
}

void BatchIndices::UploadPrompt(Stream& stream, const Batch& batch, int tokens) {
  const auto length = static_cast<int>(batch.tokens.size());
  FLA_CHECK(length <= tokens);
  host_ = batch.tokens;
  host_.resize(tokens);
  const int first = length > 0 ? batch.positions.front() : 0;
  for (int t = 0; t < tokens; ++t) host_.push_back(first + t);
  host_.insert(host_.end(),
               {0, length, length > 0 ? batch.slots.front() : 0, std::max(length - 1, 0)});
  WriteInts(stream, host_, device_.as<int>());
}

}  // namespace fla
