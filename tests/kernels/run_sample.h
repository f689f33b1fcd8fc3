// One call of Sample on a device, for tests of the sampler.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/sampling.h"
#include "tests/kernels/device_matrix.h"

namespace fla::testing {

struct Sampled {
  std::vector<int> tokens;
  std::vector<float> logprobs;
  std::vector<int> top_tokens;
  std::vector<float> top_logprobs;
  std::vector<uint8_t> nonfinite;
};

// `logits`: rows.size() rows of equal length, one behind the other. No gap between rows is written
// to, or the test fails.
inline Sampled RunSample(Stream& stream, const std::vector<double>& logits,
                         const std::vector<SamplingRow>& rows,
                         const std::vector<TokenCount>& counts,
                         const std::vector<LogitBias>& biases) {
  const size_t n = rows.size();
  const DeviceMatrix matrix(stream, DType::kF32, n, logits.size() / n, logits);
  const DeviceArray<SamplingRow> rows_device(stream, rows);
  const DeviceArray<TokenCount> counts_device(stream, counts);
  const DeviceArray<LogitBias> biases_device(stream, biases);
  const DeviceArray<int> tokens(stream, std::vector<int>(n, -7));
  const DeviceArray<float> logprobs(stream, std::vector<float>(n, 7.0f));
  const DeviceArray<int> top_tokens(stream, std::vector<int>(n * kMaxTopLogprobs, -7));
  const DeviceArray<float> top_logprobs(stream, std::vector<float>(n * kMaxTopLogprobs, 7.0f));
  const DeviceArray<int> host_tokens(stream, std::vector<int>(n, -7));
  const DeviceArray<DeviceTime> began(stream, {5});
  const DeviceArray<StepTimes> times(stream, std::vector<StepTimes>(n));
  const DeviceArray<uint8_t> nonfinite(stream, std::vector<uint8_t>(n, 7));
  Sample(stream, {.logits = matrix.view(),
                  .rows = rows_device.data(),
                  .counts = counts_device.data(),
                  .biases = biases_device.data(),
                  .began = began.data(),
                  .tokens = tokens.data(),
                  .host_tokens = host_tokens.data(),
                  .logprobs = logprobs.data(),
                  .top_tokens = top_tokens.data(),
                  .top_logprobs = top_logprobs.data(),
                  .nonfinite = nonfinite.data(),
                  .times = times.data()});
  matrix.Read();  // no gap was written to
  EXPECT_EQ(host_tokens.Read(), tokens.Read());
  for (const StepTimes& row : times.Read()) {
    EXPECT_EQ(row.began, 5u);
    EXPECT_GT(row.ended, 5u);
  }
  return {tokens.Read(), logprobs.Read(), top_tokens.Read(), top_logprobs.Read(), nonfinite.Read()};
}

}  // namespace fla::testing
