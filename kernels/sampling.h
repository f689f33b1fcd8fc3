// From logits to tokens: penalties, temperature, top-k, top-p, min-p, and log-probabilities.
//
// The randomness of a row is a pure function of (seed, position): the same request gives the same
// tokens in whatever batch it runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device.h"
#include "kernels/device_time.h"
#include "kernels/tensor.h"

namespace fla {

// Largest number of alternatives that SampleArgs can report for a row.
inline constexpr int kMaxTopLogprobs = 20;

// How often a token stands in a row's prompt and in its output so far. (Neither of counts nor of
// biases may a row's range name a token twice.)
struct TokenCount {
  int token;
  int prompt_count;
  int output_count;
};

struct LogitBias {
  int token;
  float bias;  // added to the logit; -infinity forbids the token
};

// One row of logits. Order of operations, as in vLLM and transformers: logit_bias;
// repetition_penalty r on tokens of prompt and output (l > 0 ? l / r : l * r); minus
// frequency_penalty * output_count + presence_penalty * [output_count > 0]; divided by temperature;
// then top_k, top_p (smallest set whose probability reaches top_p) and min_p (probability at least
// min_p * the largest) each cut the remaining set; one token is drawn from what is left: the first,
// in order of id, at which the running sum of probabilities passes UniformAt(seed, position).
// Ties: the lower token id comes first, in argmax as in the cuts.
struct SamplingRow {
  float temperature = 0.0f;  // 0: the most probable token
  int top_k = 0;             // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  int64_t position = 0;   // of the token that is chosen, in its sequence
  int forced_token = -1;  // >= 0: choose this token (a prompt that is scored)
  int num_top_logprobs = 0;
  int counts_begin = 0, counts_end = 0;  // range of SampleArgs::counts
  int biases_begin = 0, biases_end = 0;  // range of SampleArgs::biases
};

// When a step ran, by its device's clock.
struct StepTimes {
  DeviceTime began = 0, ended = 0;
};

struct SampleArgs {
  Matrix logits;                      // [N, vocab] f32, overwritten
  const SamplingRow* rows = nullptr;  // [N], read once a row: may be in a HostBuffer
  const TokenCount* counts = nullptr;
  const LogitBias* biases = nullptr;
  const DeviceTime* began = nullptr;  // optional: when the step began
  int* tokens = nullptr;              // [N], 0 where `nonfinite` is set
  // Results for the host, each written once: may be in a HostBuffer, so that no copy need follow.
  // Log-probabilities are of the model's own distribution: before bias, penalties, temperature and
  // cuts.
  int* host_tokens = nullptr;     // [N], optional: `tokens` once more
  float* logprobs = nullptr;      // [N], of tokens; NaN where `nonfinite` is set
  int* top_tokens = nullptr;      // [N, kMaxTopLogprobs], most probable first, num_top_logprobs
                                  // of them written; -1 past the end of the vocabulary
  float* top_logprobs = nullptr;  // [N, kMaxTopLogprobs]
  uint8_t* nonfinite = nullptr;   // [N], 1 where a logit was NaN or infinite: no token was chosen
  StepTimes* times = nullptr;     // [N], optional: *began, and when the row was done
};

void Sample(Stream& stream, const SampleArgs& args);
// What Sample takes of the stream's scratch memory.
size_t SampleScratchBytes(Device device, int64_t rows, int64_t vocab_size);

// The uniform number in (0, 1) that a row draws with: Philox4x32-10 keyed by seed, counter
// position. Shared by all backends.
float UniformAt(uint64_t seed, int64_t position);

}  // namespace fla
