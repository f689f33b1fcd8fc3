#include "kernels/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/philox.h"
#include "tests/kernels/device_matrix.h"
#include "tests/kernels/run_sample.h"

namespace fla::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class SamplingTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Rows of equal length.
  Sampled Run(const std::vector<std::vector<float>>& logits, const std::vector<SamplingRow>& rows,
              const std::vector<TokenCount>& counts = {},
              const std::vector<LogitBias>& biases = {}) {
    std::vector<double> values;
    for (const auto& row : logits) values.insert(values.end(), row.begin(), row.end());
    return RunSample(stream_, values, rows, counts, biases);
  }

  int RunOne(const std::vector<float>& logits, const SamplingRow& row,
             const std::vector<TokenCount>& counts = {},
             const std::vector<LogitBias>& biases = {}) {
    return Run({logits}, {row}, counts, biases).tokens[0];
  }

  // How often each token comes in `draws` draws at successive positions.
  std::map<int, int> Histogram(const std::vector<float>& logits, SamplingRow row, int draws,
                               const std::vector<TokenCount>& counts = {},
                               const std::vector<LogitBias>& biases = {}) {
    std::vector<SamplingRow> rows(draws, row);
    for (int i = 0; i < draws; ++i) rows[i].position = i;
    std::map<int, int> histogram;
    for (const int token : Run(std::vector(draws, logits), rows, counts, biases).tokens) {
      ++histogram[token];
    }
    return histogram;
  }

 private:
  Place place_{GetParam()};
  Stream stream_{place_.device()};
};

std::vector<float> RandomLogits(int vocab, uint32_t seed, double deviation = 3.0) {
  return ToFloats(RandomNormal(vocab, seed, DType::kF32, deviation));
}

// What a row asks for, token by token, in double: the probability of every token.
std::vector<double> DistributionByDefinition(const std::vector<float>& logits,
                                             const SamplingRow& row) {
  std::vector<double> p;
  for (const float logit : logits)
    p.push_back(std::exp(logit / static_cast<double>(row.temperature)));
  std::vector<int> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
  size_t kept = p.size();
  if (row.top_k > 0) kept = std::min<size_t>(kept, row.top_k);
  const auto mass = [&] {
    double sum = 0;
    for (size_t i = 0; i < kept; ++i) sum += p[order[i]];
    return sum;
  };
  if (row.top_p < 1.0f) {
    const double wanted = row.top_p * mass();
    double sum = 0;
    for (size_t i = 0; i < kept; ++i) {
      sum += p[order[i]];
      if (sum >= wanted) kept = i + 1;
    }
  }
  while (kept > 1 && p[order[kept - 1]] < row.min_p * p[order[0]]) --kept;
  const double total = mass();
  std::vector<double> distribution(p.size(), 0.0);
  for (size_t i = 0; i < kept; ++i) distribution[order[i]] = p[order[i]] / total;
  return distribution;
}

// Pearson's statistic against its 99.99 % point (Wilson and Hilferty's approximation).
void ExpectDistributed(const std::map<int, int>& histogram, const std::vector<double>& distribution,
                       int draws) {
  double statistic = 0, rare_wanted = 0, rare_seen = 0;
  int bins = 0;
  const auto add = [&](double wanted, double seen) {
    statistic += (seen - wanted) * (seen - wanted) / wanted;
    ++bins;
  };
  for (size_t token = 0; token < distribution.size(); ++token) {
    const auto found = histogram.find(static_cast<int>(token));
    const double seen = found == histogram.end() ? 0 : found->second;
    const double wanted = distribution[token] * draws;
    if (wanted == 0) {
      EXPECT_EQ(seen, 0) << "token " << token << " was cut";
    } else if (wanted < 8) {
      rare_wanted += wanted;
      rare_seen += seen;
    } else {
      add(wanted, seen);
    }
  }
  if (rare_wanted > 8) add(rare_wanted, rare_seen);
  const double freedom = std::max(bins - 1, 1), a = 2.0 / (9.0 * freedom);
  const double limit = freedom * std::pow(1.0 - a + 3.719 * std::sqrt(a), 3.0);
  EXPECT_LT(statistic, limit) << bins << " bins";
}

TEST(PhiloxTest, MatchesThePublishedVectors) {
  // Random123's kat_vectors, philox4x32 10, for counters whose upper half is 0.
  const PhiloxBlock zeros = Philox4x32(0, 0);
  EXPECT_THAT(zeros.words,
              ::testing::ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
}

TEST(UniformAtTest, IsOpenAndUniform) {
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = UniformAt(1234567890123ull, i);
    ASSERT_GT(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 0.004);
  EXPECT_NEAR(squares / kDraws, 1.0 / 3.0, 0.004);
  EXPECT_EQ(UniformAt(5, 9), UniformAt(5, 9));
  EXPECT_NE(UniformAt(5, 9), UniformAt(9, 5));
  EXPECT_NE(UniformAt(5, 9), UniformAt(5 + (uint64_t{1} << 32), 9));
  EXPECT_NE(UniformAt(5, 9), UniformAt(5, 9 + (int64_t{1} << 32)));
  EXPECT_LT(OpenUniform(0xffffffffu), 1.0f);
  EXPECT_GT(OpenUniform(0), 0.0f);
}

// The largest logit is subtracted before anything is exponentiated or rounded.
TEST_P(SamplingTest, LogprobsOfHugeLogitsLoseNothing) {
  const std::vector<std::vector<float>> logits = {{3e38f, 3e38f, -3e38f, 0},
                                                  {1e6f, 1e6f - 2, 1e6f - 1, -1e6f},
                                                  {-1e6f, -1e6f - 2, -1e6f - 1, -3e38f}};
  const Sampled sampled = Run(logits, {{.forced_token = 1},
                                       {.forced_token = 1, .num_top_logprobs = 3},
                                       {.forced_token = 1, .num_top_logprobs = 3}});
  const float log_sum = std::log(1 + std::exp(-1.0f) + std::exp(-2.0f));
  EXPECT_NEAR(sampled.logprobs[0], -std::log(2.0f), 1e-6);
  for (const int row : {1, 2}) {
    EXPECT_NEAR(sampled.logprobs[row], -2 - log_sum, 1e-6);
    EXPECT_NEAR(sampled.top_logprobs[row * kMaxTopLogprobs], -log_sum, 1e-6);
    EXPECT_NEAR(sampled.top_logprobs[row * kMaxTopLogprobs + 1], -1 - log_sum, 1e-6);
  }
  EXPECT_THAT(sampled.nonfinite, ::testing::Each(0));
}

TEST_P(SamplingTest, GreedyTakesTheLargestAndOfTiesTheFirst) {
  std::vector<float> logits = RandomLogits(1003, 1);
  logits[700] = logits[81] = logits[82] = 50.0f;
  EXPECT_EQ(RunOne(logits, {}), 81);
  EXPECT_EQ(RunOne({-3.0f}, {}), 0);
  EXPECT_EQ(RunOne({-3.0f, -2.0f, -2.0f}, {}), 1);
}

TEST_P(SamplingTest, DrawsInProportion) {
  constexpr int kDraws = 3000;
  const std::vector<float> logits = RandomLogits(60, 2, 2.0);
  for (const SamplingRow& row : {SamplingRow{.temperature = 1.0f, .seed = 42},
                                 SamplingRow{.temperature = 3.0f, .top_p = 0.8f, .seed = 43}}) {
    ExpectDistributed(Histogram(logits, row, kDraws), DistributionByDefinition(logits, row),
                      kDraws);
  }
}

// The token of each draw is the one whose share of the distribution, laid out in order of token,
// holds the row's uniform number.
TEST_P(SamplingTest, DrawsTheTokenThatTheUniformNumberPointsAt) {
  constexpr int kDraws = 20;
  const std::vector<SamplingRow> kinds = {
      {.temperature = 1.0f},
      {.temperature = 0.5f},
      {.temperature = 3.0f},
      {.temperature = 1.0f, .top_k = 1},
      {.temperature = 2.0f, .top_k = 7},
      {.temperature = 1.0f, .top_k = 299},
      {.temperature = 1.0f, .top_k = 300},
      {.temperature = 1.0f, .top_k = 100000},
      {.temperature = 1.0f, .top_p = 0.9f},
      {.temperature = 2.0f, .top_p = 0.3f},
      {.temperature = 1.0f, .top_p = 1e-6f},
      {.temperature = 1.0f, .top_p = 0.0f},
      {.temperature = 1.0f, .min_p = 0.05f},
      {.temperature = 1.0f, .min_p = 1.0f},
      {.temperature = 2.0f, .top_k = 20, .top_p = 0.8f, .min_p = 0.1f},
      {.temperature = 2.0f, .top_k = 5, .top_p = 0.99f},
  };
  for (const int vocab : {300, 2003}) {
    const std::vector<float> logits = RandomLogits(vocab, vocab);
    for (const SamplingRow& kind : kinds) {
      SCOPED_TRACE(::testing::Message()
                   << vocab << " tokens, temperature " << kind.temperature << " top_k "
                   << kind.top_k << " top_p " << kind.top_p << " min_p " << kind.min_p);
      std::vector<double> reached = DistributionByDefinition(logits, kind);
      const std::vector<double> distribution = reached;
      std::partial_sum(reached.begin(), reached.end(), reached.begin());
      std::vector<SamplingRow> rows(kDraws, kind);
      for (int i = 0; i < kDraws; ++i) {
        rows[i].seed = 1000 + i;
        rows[i].position = 17 * i;
      }
      const Sampled sampled = Run(std::vector(kDraws, logits), rows);
      for (int i = 0; i < kDraws; ++i) {
        const int token = sampled.tokens[i];
        const double uniform = UniformAt(rows[i].seed, rows[i].position);
        EXPECT_GT(distribution[token], 0.0) << "token " << token << " was cut";
        EXPECT_LT(uniform, reached[token] + 1e-5);
        EXPECT_GT(uniform, reached[token] - distribution[token] - 1e-5);
      }
    }
  }
}

// Ties at the edge of a cut go to the lower tokens.
TEST_P(SamplingTest, CutsTiesByToken) {
  constexpr int kDraws = 1000;
  const std::vector<float> flat(100, 1.5f);
  const auto tokens_of = [](const std::map<int, int>& histogram) {
    std::vector<int> tokens;
    for (const auto& [token, count] : histogram) tokens.push_back(token);
    return tokens;
  };
  EXPECT_THAT(tokens_of(Histogram(flat, {.temperature = 1.0f, .top_k = 4}, kDraws)),
              ::testing::ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(tokens_of(Histogram(flat, {.temperature = 1.0f, .top_p = 0.045f}, kDraws)),
              ::testing::ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(Histogram(flat, {.temperature = 1.0f, .min_p = 1.0f}, kDraws).size(), 100u);
}

TEST_P(SamplingTest, ARowDependsOnItsOwnSeedAndPositionAlone) {
  const std::vector<float> a = RandomLogits(5000, 4, 1.0), b = RandomLogits(5000, 5, 1.0);
  const SamplingRow row = {.temperature = 1.0f, .seed = 99, .position = 12};
  const int alone = RunOne(a, row);
  const Sampled batch = Run({b, a, b, a}, {{.temperature = 0.7f, .top_k = 3},
                                           row,
                                           {},
                                           {.temperature = 1.0f, .seed = 99, .position = 13}});
  EXPECT_EQ(batch.tokens[1], alone);
  EXPECT_NE(batch.tokens[3], alone) << "another position draws another number";
}

TEST_P(SamplingTest, PenaltiesAndBiasesInTheirOrder) {
  //                                 0     1      2     3
  const std::vector<float> logits = {2.0f, -1.0f, 1.5f, 1.0f};
  // Repetition divides a positive logit, multiplies a negative one, for prompt and output alike.
  EXPECT_EQ(RunOne(logits, {.repetition_penalty = 1.5f, .counts_begin = 0, .counts_end = 1},
                   {{.token = 0, .prompt_count = 1, .output_count = 0}}),
            2);
  EXPECT_EQ(RunOne({-2.0f, -1.0f}, {.repetition_penalty = 3.0f, .counts_begin = 0, .counts_end = 1},
                   {{.token = 1, .prompt_count = 0, .output_count = 2}}),
            0);
  // Frequency counts the output alone: 2 - 3 * 0.2 = 1.4.
  EXPECT_EQ(RunOne(logits, {.frequency_penalty = 0.2f, .counts_begin = 0, .counts_end = 1},
                   {{.token = 0, .prompt_count = 9, .output_count = 3}}),
            2);
  EXPECT_EQ(RunOne(logits, {.frequency_penalty = 0.2f, .counts_begin = 0, .counts_end = 1},
                   {{.token = 0, .prompt_count = 9, .output_count = 2}}),
            0);
  // Presence is once, and for the output alone.
  EXPECT_EQ(RunOne(logits, {.presence_penalty = 0.6f, .counts_begin = 0, .counts_end = 1},
                   {{.token = 0, .prompt_count = 0, .output_count = 5}}),
            2);
  EXPECT_EQ(RunOne(logits, {.presence_penalty = 0.6f, .counts_begin = 0, .counts_end = 1},
                   {{.token = 0, .prompt_count = 5, .output_count = 0}}),
            0);
  // Bias comes before repetition: (-1 + 4) / 1.2 = 2.5 > 2, while -1 * 1.2 + 4 = 2.8 is not asked.
  const std::vector<LogitBias> biases = {{.token = 1, .bias = 4.0f},
                                         {.token = 0, .bias = -kInfinity}};
  EXPECT_EQ(RunOne({2.7f, -1.0f},
                   {.repetition_penalty = 1.2f,
                    .counts_begin = 0,
                    .counts_end = 1,
                    .biases_begin = 0,
                    .biases_end = 1},
                   {{.token = 1, .prompt_count = 1, .output_count = 0}}, biases),
            0);
  // A row sees its own ranges.
  const Sampled rows = Run(
      {logits, logits, logits},
      {{.biases_begin = 0, .biases_end = 1}, {.biases_begin = 1, .biases_end = 2}, {}}, {}, biases);
  EXPECT_THAT(rows.tokens, ::testing::ElementsAre(1, 2, 0));
}

TEST_P(SamplingTest, ForbiddenTokensAreNeverDrawn) {
  const std::vector<float> logits(20, 0.0f);
  std::vector<LogitBias> biases;
  for (int token = 0; token < 20; ++token) {
    if (token % 4 != 1) biases.push_back({.token = token, .bias = -kInfinity});
  }
  for (const float top_p : {1.0f, 0.9999f}) {
    const auto histogram = Histogram(
        logits, {.temperature = 1.0f, .top_p = top_p, .biases_begin = 0, .biases_end = 15}, 2000,
        {}, biases);
    ASSERT_EQ(histogram.size(), 5u);
    for (const auto& [token, count] : histogram) EXPECT_EQ(token % 4, 1);
  }
}

TEST_P(SamplingTest, ReportsLogprobsOfTheModelsOwnDistribution) {
  for (const int vocab : {1, 7, 300, 20001}) {
    SCOPED_TRACE(vocab);
    const std::vector<float> logits = RandomLogits(vocab, 6);
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    const double log_sum = std::log(sum);
    std::vector<int> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return logits[a] > logits[b]; });
    // Temperature, bias and cuts change the choice and not what is reported.
    const std::vector<LogitBias> biases = {{.token = vocab - 1, .bias = 100.0f}};
    const Sampled sampled = Run({logits, logits},
                                {{.temperature = 0.3f,
                                  .top_k = 2,
                                  .num_top_logprobs = 5,
                                  .biases_begin = 0,
                                  .biases_end = 1},
                                 {.forced_token = vocab / 2, .num_top_logprobs = kMaxTopLogprobs}},
                                {}, biases);
    EXPECT_EQ(sampled.tokens[0], vocab - 1);
    EXPECT_NEAR(sampled.logprobs[0], logits[vocab - 1] - log_sum, 1e-5);
    EXPECT_EQ(sampled.tokens[1], vocab / 2);
    EXPECT_NEAR(sampled.logprobs[1], logits[vocab / 2] - log_sum, 1e-5);
    for (int i = 0; i < kMaxTopLogprobs; ++i) {
      for (const int row : {0, 1}) {
        const int at = row * kMaxTopLogprobs + i;
        if (row == 0 && i >= 5) continue;
        if (i < vocab) {
          EXPECT_EQ(sampled.top_tokens[at], order[i]);
          EXPECT_NEAR(sampled.top_logprobs[at], logits[order[i]] - log_sum, 1e-5);
        } else {
          EXPECT_EQ(sampled.top_tokens[at], -1);
          EXPECT_EQ(sampled.top_logprobs[at], -kInfinity);
        }
      }
    }
  }
}

TEST_P(SamplingTest, LogprobsOfLargeLogitsDoNotOverflow) {
  const Sampled sampled = Run({{3e4f, 3e4f, -3e4f}, {-3e4f, -3e4f, -3.1e4f}}, {{}, {}});
  EXPECT_THAT(sampled.tokens, ::testing::ElementsAre(0, 0));
  for (const float logprob : sampled.logprobs) EXPECT_NEAR(logprob, -std::log(2.0), 1e-5);
}

TEST_P(SamplingTest, TopLogprobsOfTiesAreInOrderOfToken) {
  const Sampled sampled = Run({{1.0f, 2.0f, 2.0f, 1.0f, 2.0f}}, {{.num_top_logprobs = 4}});
  EXPECT_THAT(std::vector(sampled.top_tokens.begin(), sampled.top_tokens.begin() + 4),
              ::testing::ElementsAre(1, 2, 4, 0));
}

TEST_P(SamplingTest, FlagsRowsThatAreNotFinite) {
  const std::vector<float> good = RandomLogits(100, 8);
  std::vector<std::vector<float>> logits = {good};
  for (const float bad : {NAN, kInfinity, -kInfinity}) {
    for (const int at : {0, 57, 99}) {
      logits.push_back(good);
      logits.back()[at] = bad;
    }
  }
  logits.push_back(good);
  const Sampled sampled =
      Run(logits, std::vector<SamplingRow>(11, {.temperature = 1.0f, .seed = 3}));
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool bad = i > 0 && i + 1 < logits.size();
    EXPECT_EQ(sampled.nonfinite[i], bad ? 1 : 0) << i;
    if (bad) {
      EXPECT_EQ(sampled.tokens[i], 0);
      EXPECT_TRUE(std::isnan(sampled.logprobs[i]));
    }
  }
  EXPECT_EQ(sampled.tokens.front(), sampled.tokens.back());
}

INSTANTIATE_TEST_SUITE_P(Devices, SamplingTest, ::testing::ValuesIn(Places()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fla::testing
