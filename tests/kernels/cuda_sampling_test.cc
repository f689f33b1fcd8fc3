// The sampler on the GPU against the CPU's.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/device.h"
#include "kernels/sampling.h"
#include "tests/kernels/op_arena.h"
#include "tests/kernels/run_sample.h"

namespace fla {
namespace {

struct SamplingProblem {
  Input logits;
  std::vector<SamplingRow> rows;
  std::vector<TokenCount> counts;
  std::vector<LogitBias> biases;
};

testing::Sampled RunSample(Device device, const SamplingProblem& problem) {
  Stream stream(device);
  const std::vector<float>& logits = problem.logits.values;
  return testing::RunSample(stream, {logits.begin(), logits.end()}, problem.rows, problem.counts,
                            problem.biases);
}

// Random rows and options of every kind.
SamplingProblem RandomSampling(std::mt19937& random, int num_rows, int vocab) {
  SamplingProblem problem{Random(random, num_rows, vocab, 3.0f)};
  for (int i = 0; i < num_rows; ++i) {
    float* logits = problem.logits.values.data() + static_cast<int64_t>(i) * vocab;
    if (i % 5 == 1) {  // many ties
      for (int t = 0; t < vocab; ++t) logits[t] = std::round(logits[t]);
    }
    if (i % 5 == 2) std::fill(logits, logits + vocab, -1.5f);
    SamplingRow row;
    row.temperature = i % 4 == 0 ? 0.0f : 0.3f + 0.4f * static_cast<float>(i % 4);
    row.top_k = i % 3 == 0 ? 0 : 1 + static_cast<int>(random() % 5000);
    row.top_p = i % 2 == 0 ? 1.0f : 0.05f + 0.9f * static_cast<float>(random() % 1000) / 1000.0f;
    row.min_p = i % 7 == 3 ? 0.05f : 0.0f;
    row.seed = random();
    row.position = static_cast<int64_t>(random());
    row.num_top_logprobs = i % 3 == 1 ? 1 + static_cast<int>(random() % kMaxTopLogprobs) : 0;
    if (i % 11 == 5) row.forced_token = static_cast<int>(random() % vocab);
    row.counts_begin = static_cast<int>(problem.counts.size());
    row.biases_begin = static_cast<int>(problem.biases.size());
    if (i % 6 >= 4) {
      row.repetition_penalty = 1.3f;
      row.presence_penalty = 0.5f;
      row.frequency_penalty = 0.25f;
      for (int t = i % 3; t < vocab && t < 500; t += 3) {
        problem.counts.push_back(
            {t, static_cast<int>(random() % 2), static_cast<int>(random() % 3)});
      }
      problem.biases.push_back({1, 2.0f});
      problem.biases.push_back({0, -INFINITY});
    }
    row.counts_end = static_cast<int>(problem.counts.size());
    row.biases_end = static_cast<int>(problem.biases.size());
    problem.rows.push_back(row);
  }
  return problem;
}

TEST(CudaSampling, EqualsTheCpu) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  std::mt19937 random(11);
  for (int vocab : {2, 100, 8192, 32000, 65537, 248320}) {
    const SamplingProblem problem = RandomSampling(random, vocab > 100000 ? 48 : 120, vocab);
    const testing::Sampled wanted = RunSample(ParseDevice("cpu"), problem);
    const testing::Sampled actual = RunSample(ParseDevice("cuda"), problem);
    int different = 0;
    for (size_t i = 0; i < problem.rows.size(); ++i) {
      const SamplingRow& row = problem.rows[i];
      EXPECT_EQ(actual.nonfinite[i], 0);
      if (actual.tokens[i] != wanted.tokens[i]) {
        // Sums round differently: a draw may fall on the other side of a border.
        EXPECT_GT(row.temperature, 0.0f) << "vocab " << vocab << " row " << i;
        ++different;
      } else {
        EXPECT_NEAR(actual.logprobs[i], wanted.logprobs[i], 2e-4) << "vocab " << vocab;
      }
      for (int j = 0; j < row.num_top_logprobs; ++j) {
        const size_t at = i * kMaxTopLogprobs + j;
        EXPECT_EQ(actual.top_tokens[at], wanted.top_tokens[at]) << "vocab " << vocab;
        if (wanted.top_tokens[at] >= 0) {
          EXPECT_NEAR(actual.top_logprobs[at], wanted.top_logprobs[at], 2e-4);
        }
      }
    }
    EXPECT_LE(different, 1) << "of " << problem.rows.size() << " rows, vocab " << vocab;
  }
}

TEST(CudaSampling, SameAloneAndInABatch) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  std::mt19937 random(12);
  const int vocab = 32000;
  const SamplingProblem problem = RandomSampling(random, 60, vocab);
  const testing::Sampled together = RunSample(ParseDevice("cuda"), problem);
  for (size_t i = 0; i < problem.rows.size(); ++i) {
    SamplingProblem alone = problem;
    alone.rows = {problem.rows[i]};
    alone.logits.rows = 1;
    alone.logits.values.assign(problem.logits.values.begin() + i * vocab,
                               problem.logits.values.begin() + (i + 1) * vocab);
    const testing::Sampled one = RunSample(ParseDevice("cuda"), alone);
    EXPECT_EQ(one.tokens[0], together.tokens[i]);
    EXPECT_EQ(one.logprobs[0], together.logprobs[i]);
  }
}

TEST(CudaSampling, RefusesNonfiniteRows) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  for (float bad : {NAN, INFINITY, -INFINITY}) {
    SamplingProblem problem{Input{2, 1000, std::vector<float>(2000, 0.5f)}};
    problem.rows.resize(2);
    problem.logits.values[1234] = bad;
    const testing::Sampled sampled = RunSample(ParseDevice("cuda"), problem);
    EXPECT_EQ(sampled.nonfinite, (std::vector<uint8_t>{0, 1}));
    EXPECT_EQ(sampled.tokens, (std::vector<int>{0, 0}));
    EXPECT_TRUE(std::isnan(sampled.logprobs[1]));
  }
}

}  // namespace
}  // namespace fla
