// From logits on the device to tokens on the host: gathers what each row needs, runs Sample.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/device.h"
#include "kernels/sampling.h"
#include "kernels/tensor.h"

namespace fla {

// How often each token stands in a prompt and its output; what penalties are computed from.
class TokenHistory {
 public:
  void AddPrompt(std::span<const int> tokens);
  void AddOutput(int token);
  // One entry a token that occurred, no two of the same token.
  std::span<const TokenCount> counts() const { return counts_; }

 private:
  TokenCount& CountOf(int token);

  std::vector<TokenCount> counts_;
  std::unordered_map<int, size_t> index_;  // token -> index into counts_
};

// What is wanted of one row of logits. The ranges in `row` are filled in by the sampler.
struct SampleRequest {
  SamplingRow row;
  std::span<const TokenCount> counts;
  std::span<const LogitBias> biases;  // no token twice
};

struct SampledToken {
  int token = 0;
  float logprob = 0.0f;
  bool nonfinite = false;                  // the logits held a NaN or an infinity; no token
  std::vector<std::pair<int, float>> top;  // row.num_top_logprobs of them, most probable first
};

// Samples the rows of one step at a time: Launch queues the work on the stream, Collect waits for
// it. Buffers grow to the largest step seen.
//
// Thread safety: one thread at a time, that which owns the stream.
class Sampler {
 public:
  // `stream` must outlive the sampler.
  explicit Sampler(Stream& stream) : stream_(stream) {}

  // Queues the sampling of `logits` [N, vocab] f32, row i as requests[i] says. The logits are
  // overwritten; the spans of the requests are read before this returns.
  void Launch(const Matrix& logits, std::span<const SampleRequest> requests);

  // What the last Launch chose, one a row. To be called once after each Launch.
  std::vector<SampledToken> Collect();

 private:
  Stream& stream_;
  Buffer inputs_;
  Buffer results_;
  std::vector<char> host_inputs_;
  std::vector<char> host_results_;
  std::vector<int> num_top_;  // of each row of the last Launch
};

}  // namespace fla
