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
#include "model/staging.h"

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

// Samples the rows of steps: Prepare says how and Launch from what, both only queueing work on the
// stream; Collect waits for it. Launches may run ahead of Collect by kMaxAhead steps, which are
// collected in their order.
//
// Thread safety: one thread at a time, that which owns the stream.
class Sampler {
 public:
  static constexpr int kMaxAhead = 2;

  // Takes memory for steps of up to `max_rows` rows of `vocab_size` logits. `stream` must outlive
  // the sampler.
  Sampler(Stream& stream, int max_rows, int vocab_size);

  // The tokens of the last Launch, in device memory: [max_rows], always at the same place.
  const int* tokens() const { return tokens_.as<int>(); }

  // Row i of the next Launch is to be sampled as requests[i] says. The spans of the requests are
  // read before this returns. To be called before the model's work of the step is queued, so that
  // copies (of counts and biases, which few rows have) do not stand between that and the sampling.
  void Prepare(std::span<const SampleRequest> requests);
  // Queues the sampling of `logits` [N, vocab] f32, which are overwritten. `began`, in device
  // memory or null: when the step began that they are of.
  void Launch(const Matrix& logits, const DeviceTime* began = nullptr);

  // Whether Collect would not wait, or for no more than the end of a kernel. Says nothing of a
  // device that has failed.
  bool IsDone() const;
  // What the first Launch that was not collected chose, one a row. To be called once for each.
  std::vector<SampledToken> Collect();
  // When the step began that was collected last, and when its last row was sampled; zeros if it had
  // none.
  const StepTimes& times() const { return times_; }

 private:
  // One Launch on its way to the host. The device reads and writes the two buffers where they are.
  struct Flight {
    explicit Flight(Device device) : done(device) {}
    HostBuffer rows;     // SamplingRow
    HostBuffer results;  // see ResultLayout
    Fence done;
    std::vector<int> num_top;  // of each row
    size_t biases_offset = 0;  // bytes, in changes_; before them: counts
  };

  Stream& stream_;
  Staging staging_;
  Buffer changes_;  // counts and biases of the last Prepare
  Buffer tokens_;
  std::vector<Flight> flights_;  // kMaxAhead + 1 that take turns
  size_t launched_ = 0;          // Launches so far
  size_t collected_ = 0;
  StepTimes times_;
};

}  // namespace fla
