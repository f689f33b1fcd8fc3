#include "model/sampler.h"

#include <algorithm>
#include <cstring>

namespace fla {
namespace {

static_assert(alignof(TokenCount) <= alignof(SamplingRow));
static_assert(sizeof(TokenCount) % alignof(LogitBias) == 0);

// Results of N rows in one block. The alternatives come last, so that they need not be copied when
// no row wants them.
struct ResultLayout {
  explicit ResultLayout(size_t rows)
      : logprobs(rows * sizeof(int)),
        nonfinite(logprobs + rows * sizeof(float)),
        top_tokens(nonfinite + (rows + 3) / 4 * 4),
        top_logprobs(top_tokens + rows * kMaxTopLogprobs * sizeof(int)),
        size(top_logprobs + rows * kMaxTopLogprobs * sizeof(float)) {}

  static constexpr size_t tokens = 0;  // all: byte offsets
  size_t logprobs, nonfinite, top_tokens, top_logprobs, size;
};

// Grows a buffer to at least `size` bytes, with room for some more; its contents are lost.
void Reserve(Buffer& buffer, Device device, size_t size) {
  if (buffer.size() < size) buffer = Buffer(device, std::max(size, buffer.size() * 2));
}

template <typename T>
T ReadAt(const std::vector<char>& bytes, size_t offset, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + offset + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

void TokenHistory::AddPrompt(std::span<const int> tokens) {
  for (int token : tokens) ++CountOf(token).prompt_count;
}

void TokenHistory::AddOutput(int token) { ++CountOf(token).output_count; }

TokenCount& TokenHistory::CountOf(int token) {
  const auto [it, inserted] = index_.try_emplace(token, counts_.size());
  if (inserted) counts_.push_back({token, 0, 0});
  return counts_[it->second];
}

void Sampler::Launch(const Matrix& logits, std::span<const SampleRequest> requests) {
  num_top_.clear();
  if (requests.empty()) return;

  size_t num_counts = 0, num_biases = 0;
  for (const SampleRequest& request : requests) {
    num_counts += request.counts.size();
    num_biases += request.biases.size();
  }
  const size_t counts_offset = requests.size() * sizeof(SamplingRow);
  const size_t biases_offset = counts_offset + num_counts * sizeof(TokenCount);
  host_inputs_.resize(biases_offset + num_biases * sizeof(LogitBias));

  int counts = 0, biases = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const SampleRequest& request = requests[i];
    SamplingRow row = request.row;
    row.num_top_logprobs = std::clamp(row.num_top_logprobs, 0, kMaxTopLogprobs);
    row.counts_begin = counts;
    row.biases_begin = biases;
    if (!request.counts.empty()) {
      std::memcpy(host_inputs_.data() + counts_offset + counts * sizeof(TokenCount),
                  request.counts.data(), request.counts.size_bytes());
    }
    if (!request.biases.empty()) {
      std::memcpy(host_inputs_.data() + biases_offset + biases * sizeof(LogitBias),
                  request.biases.data(), request.biases.size_bytes());
    }
    counts += static_cast<int>(request.counts.size());
    biases += static_cast<int>(request.biases.size());
    row.counts_end = counts;
    row.biases_end = biases;
    std::memcpy(host_inputs_.data() + i * sizeof(SamplingRow), &row, sizeof(row));
    num_top_.push_back(row.num_top_logprobs);
  }

  const ResultLayout layout(requests.size());
  Reserve(inputs_, stream_.device(), host_inputs_.size());
  Reserve(results_, stream_.device(), layout.size);
  stream_.CopyToDevice(inputs_.data(), host_inputs_.data(), host_inputs_.size());

  SampleArgs args;
  args.logits = logits;
  char* const inputs = inputs_.as<char>();
  args.rows = reinterpret_cast<const SamplingRow*>(inputs);
  args.counts = reinterpret_cast<const TokenCount*>(inputs + counts_offset);
  args.biases = reinterpret_cast<const LogitBias*>(inputs + biases_offset);
  char* const results = results_.as<char>();
  args.tokens = reinterpret_cast<int*>(results + layout.tokens);
  args.logprobs = reinterpret_cast<float*>(results + layout.logprobs);
  args.nonfinite = reinterpret_cast<uint8_t*>(results + layout.nonfinite);
  args.top_tokens = reinterpret_cast<int*>(results + layout.top_tokens);
  args.top_logprobs = reinterpret_cast<float*>(results + layout.top_logprobs);
  Sample(stream_, args);

  const bool want_top = std::any_of(num_top_.begin(), num_top_.end(), [](int n) { return n > 0; });
  host_results_.resize(want_top ? layout.size : layout.top_tokens);
  stream_.CopyToHost(host_results_.data(), results_.data(), host_results_.size());
}

std::vector<SampledToken> Sampler::Collect() {
  std::vector<SampledToken> sampled(num_top_.size());
  if (sampled.empty()) return sampled;
  stream_.Synchronize();
  const ResultLayout layout(sampled.size());
  for (size_t i = 0; i < sampled.size(); ++i) {
    SampledToken& row = sampled[i];
    row.token = ReadAt<int>(host_results_, layout.tokens, i);
    row.logprob = ReadAt<float>(host_results_, layout.logprobs, i);
    row.nonfinite = ReadAt<uint8_t>(host_results_, layout.nonfinite, i) != 0;
    for (int j = 0; j < num_top_[i]; ++j) {
      row.top.emplace_back(
          ReadAt<int>(host_results_, layout.top_tokens, i * kMaxTopLogprobs + j),
          ReadAt<float>(host_results_, layout.top_logprobs, i * kMaxTopLogprobs + j));
    }
  }
  return sampled;
}

}  // namespace fla
