#include "model/sampler.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

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
T ReadAt(const char* bytes, size_t offset, size_t index) {
  T value;
  std::memcpy(&value, bytes + offset + index * sizeof(T), sizeof(T));
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

Sampler::Sampler(Stream& stream, int max_rows, int vocab_size)
    : stream_(stream),
      staging_(stream.device()),
      inputs_(stream.device(), max_rows * sizeof(SamplingRow)),
      results_(stream.device(), ResultLayout(max_rows).size) {
  for (int i = 0; i <= kMaxAhead; ++i) {
    flights_.emplace_back(stream.device());
    flights_.back().results = HostBuffer(stream.device(), results_.size());
  }
  stream.Scratch(SampleScratchBytes(stream.device(), max_rows, vocab_size));
}

void Sampler::Prepare(std::span<const SampleRequest> requests) {
  FLA_CHECK(launched_ - collected_ <= kMaxAhead);
  Flight& flight = flights_[launched_ % flights_.size()];
  flight.num_top.clear();
  if (requests.empty()) return;
  size_t num_counts = 0, num_biases = 0;
  for (const SampleRequest& request : requests) {
    num_counts += request.counts.size();
    num_biases += request.biases.size();
  }
  flight.counts_offset = requests.size() * sizeof(SamplingRow);
  flight.biases_offset = flight.counts_offset + num_counts * sizeof(TokenCount);
  const size_t bytes = flight.biases_offset + num_biases * sizeof(LogitBias);
  char* const host = staging_.Fill(bytes);
  int counts = 0, biases = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const SampleRequest& request = requests[i];
    SamplingRow row = request.row;
    row.num_top_logprobs = std::clamp(row.num_top_logprobs, 0, kMaxTopLogprobs);
    row.counts_begin = counts;
    row.biases_begin = biases;
    if (!request.counts.empty()) {
      std::memcpy(host + flight.counts_offset + counts * sizeof(TokenCount), request.counts.data(),
                  request.counts.size_bytes());
    }
    if (!request.biases.empty()) {
      std::memcpy(host + flight.biases_offset + biases * sizeof(LogitBias), request.biases.data(),
                  request.biases.size_bytes());
    }
    counts += static_cast<int>(request.counts.size());
    biases += static_cast<int>(request.biases.size());
    row.counts_end = counts;
    row.biases_end = biases;
    std::memcpy(host + i * sizeof(SamplingRow), &row, sizeof(row));
    flight.num_top.push_back(row.num_top_logprobs);
  }
  Reserve(inputs_, stream_.device(), bytes);
  staging_.Upload(stream_, inputs_.data(), bytes);
}

void Sampler::Launch(const Matrix& logits) {
  Flight& flight = flights_[launched_++ % flights_.size()];
  const size_t rows = flight.num_top.size();
  if (rows == 0) return;
  FLA_CHECK(logits.rows == static_cast<int64_t>(rows));
  const ResultLayout layout(rows);
  FLA_CHECK(layout.size <= results_.size());

  SampleArgs args;
  args.logits = logits;
  char* const inputs = inputs_.as<char>();
  args.rows = reinterpret_cast<const SamplingRow*>(inputs);
  args.counts = reinterpret_cast<const TokenCount*>(inputs + flight.counts_offset);
  args.biases = reinterpret_cast<const LogitBias*>(inputs + flight.biases_offset);
  char* const results = results_.as<char>();
  args.tokens = reinterpret_cast<int*>(results + layout.tokens);
  args.logprobs = reinterpret_cast<float*>(results + layout.logprobs);
  args.nonfinite = reinterpret_cast<uint8_t*>(results + layout.nonfinite);
  args.top_tokens = reinterpret_cast<int*>(results + layout.top_tokens);
  args.top_logprobs = reinterpret_cast<float*>(results + layout.top_logprobs);
  Sample(stream_, args);

  const bool want_top =
      std::any_of(flight.num_top.begin(), flight.num_top.end(), [](int n) { return n > 0; });
  stream_.CopyToHost(flight.results.data(), results, want_top ? layout.size : layout.top_tokens);
  flight.done.Record(stream_);
}

std::vector<SampledToken> Sampler::Collect() {
  FLA_CHECK(collected_ < launched_);
  Flight& flight = flights_[collected_++ % flights_.size()];
  std::vector<SampledToken> sampled(flight.num_top.size());
  if (sampled.empty()) return sampled;
  flight.done.Wait();
  const ResultLayout layout(sampled.size());
  const char* const results = flight.results.data();
  for (size_t i = 0; i < sampled.size(); ++i) {
    SampledToken& row = sampled[i];
    row.token = ReadAt<int>(results, layout.tokens, i);
    row.logprob = ReadAt<float>(results, layout.logprobs, i);
    row.nonfinite = ReadAt<uint8_t>(results, layout.nonfinite, i) != 0;
    for (int j = 0; j < flight.num_top[i]; ++j) {
      row.top.emplace_back(ReadAt<int>(results, layout.top_tokens, i * kMaxTopLogprobs + j),
                           ReadAt<float>(results, layout.top_logprobs, i * kMaxTopLogprobs + j));
    }
  }
  return sampled;
}

}  // namespace fla
