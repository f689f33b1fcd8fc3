#include "model/sampler.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace fla {
namespace {

static_assert(sizeof(TokenCount) % alignof(LogitBias) == 0);

constexpr size_t kFirstChanges = 64 << 10;  // bytes of counts and biases: most steps take no more

// Results of N rows in one block of memory.
struct ResultLayout {
  explicit ResultLayout(size_t rows)
      : tokens(rows * sizeof(StepTimes)),
        logprobs(tokens + rows * sizeof(int)),
        top_tokens(logprobs + rows * sizeof(float)),
        top_logprobs(top_tokens + rows * kMaxTopLogprobs * sizeof(int)),
        nonfinite(top_logprobs + rows * kMaxTopLogprobs * sizeof(float)),
        size(nonfinite + rows) {}

  static constexpr size_t times = 0;  // all: byte offsets
  size_t tokens, logprobs, top_tokens, top_logprobs, nonfinite, size;
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
      changes_(stream.device(), kFirstChanges),
      tokens_(stream.device(), max_rows * sizeof(int)) {
  for (int i = 0; i <= kMaxAhead; ++i) {
    flights_.emplace_back(stream.device());
    flights_.back().rows = HostBuffer(stream.device(), max_rows * sizeof(SamplingRow));
    flights_.back().results = HostBuffer(stream.device(), ResultLayout(max_rows).size);
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
  FLA_CHECK(requests.size() * sizeof(SamplingRow) <= flight.rows.size());
  flight.biases_offset = num_counts * sizeof(TokenCount);
  const size_t bytes = flight.biases_offset + num_biases * sizeof(LogitBias);
  char* const host = bytes > 0 ? staging_.Fill(bytes) : nullptr;
  int counts = 0, biases = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const SampleRequest& request = requests[i];
    SamplingRow row = request.row;
    row.num_top_logprobs = std::clamp(row.num_top_logprobs, 0, kMaxTopLogprobs);
    row.counts_begin = counts;
    row.biases_begin = biases;
    if (!request.counts.empty()) {
      std::memcpy(host + counts * sizeof(TokenCount), request.counts.data(),
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
    std::memcpy(flight.rows.data() + i * sizeof(SamplingRow), &row, sizeof(row));
    flight.num_top.push_back(row.num_top_logprobs);
  }
  if (bytes == 0) return;
  Reserve(changes_, stream_.device(), bytes);
  staging_.Upload(stream_, changes_.data(), bytes);
}

void Sampler::Launch(const Matrix& logits, const DeviceTime* began) {
  Flight& flight = flights_[launched_++ % flights_.size()];
  const size_t rows = flight.num_top.size();
  if (rows == 0) return;
  FLA_CHECK(logits.rows == static_cast<int64_t>(rows));
  const ResultLayout layout(rows);

  SampleArgs args;
  args.logits = logits;
  args.rows = reinterpret_cast<const SamplingRow*>(flight.rows.data());
  args.counts = changes_.as<TokenCount>();
  args.biases = reinterpret_cast<const LogitBias*>(changes_.as<char>() + flight.biases_offset);
  args.began = began;
  args.tokens = tokens_.as<int>();
  char* const results = flight.results.data();
  args.times = reinterpret_cast<StepTimes*>(results + layout.times);
  std::fill_n(args.times, rows, StepTimes{});  // IsDone looks at them
  args.host_tokens = reinterpret_cast<int*>(results + layout.tokens);
  args.logprobs = reinterpret_cast<float*>(results + layout.logprobs);
  args.nonfinite = reinterpret_cast<uint8_t*>(results + layout.nonfinite);
  args.top_tokens = reinterpret_cast<int*>(results + layout.top_tokens);
  args.top_logprobs = reinterpret_cast<float*>(results + layout.top_logprobs);
  Sample(stream_, args);
  flight.done.Record(stream_);
}

bool Sampler::IsDone() const {
  FLA_CHECK(collected_ < launched_);
  const Flight& flight = flights_[collected_ % flights_.size()];
  const char* const times = flight.results.data() + ResultLayout(flight.num_top.size()).times;
  for (size_t i = 0; i < flight.num_top.size(); ++i) {
    // The device writes there.
    const auto* const row = reinterpret_cast<const volatile StepTimes*>(times) + i;
    if (row->ended == 0) return false;
  }
  return true;
}

std::vector<SampledToken> Sampler::Collect() {
  FLA_CHECK(collected_ < launched_);
  Flight& flight = flights_[collected_++ % flights_.size()];
  std::vector<SampledToken> sampled(flight.num_top.size());
  times_ = {};
  if (sampled.empty()) return sampled;
  flight.done.Wait();
  const ResultLayout layout(sampled.size());
  const char* const results = flight.results.data();
  for (size_t i = 0; i < sampled.size(); ++i) {
    const auto times = ReadAt<StepTimes>(results, layout.times, i);
    times_ = {times.began, std::max(times_.ended, times.ended)};
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
