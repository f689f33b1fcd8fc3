#include "model/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/testing/devices.h"

namespace fla {
namespace {

using ::testing::ElementsAre;
using ::testing::FieldsAre;
using ::testing::IsEmpty;

TEST(TokenHistoryTest, CountsPromptAndOutputApart) {
  TokenHistory history;
  EXPECT_THAT(history.counts(), IsEmpty());
  history.AddPrompt(std::vector<int>{7, 3, 7});
  history.AddOutput(3);
  history.AddOutput(9);
  history.AddOutput(9);
  EXPECT_THAT(history.counts(),
              ElementsAre(FieldsAre(7, 2, 0), FieldsAre(3, 1, 1), FieldsAre(9, 0, 2)));
}

class SamplerTest : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr int kVocab = 5;

  // One call for rows that all have these logits (natural logs of weights 1, 2, 4, 8, 16).
  std::vector<SampledToken> Run(const std::vector<SampleRequest>& requests, float first_logit = 0) {
    std::vector<float> logits;
    for (size_t row = 0; row < requests.size(); ++row) {
      logits.push_back(first_logit);
      for (int token = 1; token < kVocab; ++token) logits.push_back(std::log(2.0f) * token);
    }
    const Buffer memory(stream_.device(), std::max<size_t>(logits.size() * sizeof(float), 4));
    stream_.CopyToDevice(memory.data(), logits.data(), logits.size() * sizeof(float));
    sampler_.Prepare(requests);
    sampler_.Launch(
        {memory.data(), DType::kF32, static_cast<int64_t>(requests.size()), kVocab, kVocab});
    return sampler_.Collect();
  }

  Stream stream_{ParseDevice(GetParam())};
  Sampler sampler_{stream_, 200, kVocab};
};

TEST_P(SamplerTest, NothingInNothingOut) { EXPECT_THAT(Run({}), IsEmpty()); }

TEST_P(SamplerTest, EveryRowHasItsOwnOptions) {
  const std::vector<LogitBias> no_four = {{4, -std::numeric_limits<float>::infinity()}};
  const std::vector<LogitBias> one = {{0, 1.0f}, {1, 100.0f}};
  TokenHistory history;
  history.AddOutput(4);
  history.AddOutput(3);
  std::vector<SampleRequest> requests(5);
  requests[1].biases = no_four;
  requests[2].row.presence_penalty = 2.0f;  // takes 4 to 2 log 2 and less, 3 likewise
  requests[2].counts = history.counts();
  requests[3].biases = one;
  requests[4].row.forced_token = 0;
  const std::vector<SampledToken> sampled = Run(requests);
  ASSERT_EQ(sampled.size(), 5u);
  const std::vector<int> tokens = {4, 3, 2, 1, 0};
  for (int row = 0; row < 5; ++row) {
    EXPECT_EQ(sampled[row].token, tokens[row]) << row;
    EXPECT_FALSE(sampled[row].nonfinite);
    // Of the model's own distribution: before bias and penalties.
    EXPECT_NEAR(sampled[row].logprob, std::log(std::exp2(tokens[row]) / 31), 1e-5) << row;
    EXPECT_THAT(sampled[row].top, IsEmpty());
  }
}

TEST_P(SamplerTest, AlternativesAreThoseThatWereAskedFor) {
  std::vector<SampleRequest> requests(3);
  requests[0].row.num_top_logprobs = 2;
  requests[2].row.num_top_logprobs = 3;
  const std::vector<SampledToken> sampled = Run(requests);
  ASSERT_EQ(sampled[0].top.size(), 2u);
  EXPECT_THAT(sampled[1].top, IsEmpty());
  ASSERT_EQ(sampled[2].top.size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(sampled[2].top[i].first, 4 - i);
    EXPECT_NEAR(sampled[2].top[i].second, std::log(std::exp2(4 - i) / 31), 1e-5);
  }
}

TEST_P(SamplerTest, SaysWhichRowsAreNotFinite) {
  EXPECT_TRUE(Run(std::vector<SampleRequest>(1), NAN)[0].nonfinite);
  EXPECT_TRUE(Run(std::vector<SampleRequest>(1), INFINITY)[0].nonfinite);
  EXPECT_FALSE(Run(std::vector<SampleRequest>(1), -1e30f)[0].nonfinite);
}

TEST_P(SamplerTest, TellsWhenAStepBeganAndEnded) {
  const DeviceTime began = 7;
  const Buffer memory(stream_.device(), kVocab * sizeof(float)), clock(stream_.device(), 8);
  stream_.Zero(memory.data(), memory.size());
  stream_.CopyToDevice(clock.data(), &began, sizeof(began));
  sampler_.Prepare(std::vector<SampleRequest>(1));
  sampler_.Launch({memory.data(), DType::kF32, 1, kVocab, kVocab}, clock.as<DeviceTime>());
  sampler_.Collect();
  EXPECT_EQ(sampler_.times().began, began);
  EXPECT_GT(sampler_.times().ended, began);
  Run({});  // a step that samples nothing
  EXPECT_EQ(sampler_.times().ended, 0u);
}

TEST_P(SamplerTest, GrowsAndShrinksWithTheStep) {
  for (int rows : {1, 37, 3, 200, 1}) {
    std::vector<SampleRequest> requests(rows);
    for (int row = 0; row < rows; ++row) requests[row].row.forced_token = row % kVocab;
    const std::vector<SampledToken> sampled = Run(requests);
    ASSERT_EQ(sampled.size(), requests.size());
    for (int row = 0; row < rows; ++row) EXPECT_EQ(sampled[row].token, row % kVocab);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, SamplerTest, ::testing::ValuesIn(testing::Devices()));

}  // namespace
}  // namespace fla
