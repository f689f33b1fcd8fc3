#include "client/load_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <stdexcept>
#include <vector>

namespace fla::client {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::Ge;
using ::testing::Le;

PlanOptions Options() {
  PlanOptions options;
  options.seed = 7;
  options.prompt_tokens = ParseLength("1-40");
  options.output_tokens = ParseLength("lognormal:20:0.5:64");
  options.vocab_size = 100;
  options.excluded_tokens = {0, 99};
  return options;
}

std::vector<PlannedRequest> Take(const PlanOptions& options, int count) {
  LoadPlan plan(options);
  std::vector<PlannedRequest> requests;
  for (int i = 0; i < count; ++i) requests.push_back(plan.Next());
  return requests;
}

TEST(LoadPlanTest, TheSeedDecidesEverything) {
  PlanOptions options = Options();
  options.rate = 10;
  options.cancel_fraction = 0.5;
  const auto once = Take(options, 50), again = Take(options, 50);
  options.seed = 8;
  const auto other = Take(options, 50);
  int differ = 0;
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(once[i].index, i);
    EXPECT_EQ(once[i].start_seconds, again[i].start_seconds);
    EXPECT_EQ(once[i].prompt, again[i].prompt);
    EXPECT_EQ(once[i].output_tokens, again[i].output_tokens);
    EXPECT_EQ(once[i].sampling_seed, again[i].sampling_seed);
    EXPECT_EQ(once[i].cancel_after, again[i].cancel_after);
    differ += once[i].prompt != other[i].prompt && once[i].sampling_seed != other[i].sampling_seed;
  }
  EXPECT_EQ(differ, 50);
}

TEST(LoadPlanTest, TheSameRequestsComeAtAnyRate) {
  PlanOptions options = Options();
  const auto closed = Take(options, 20);
  options.rate = 3;
  const auto open = Take(options, 20);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(closed[i].prompt, open[i].prompt);
}

TEST(LoadPlanTest, PromptsKeepToTheAlphabetAndUseAllOfIt) {
  std::set<int> used;
  for (const PlannedRequest& request : Take(Options(), 200)) {
    EXPECT_THAT(request.prompt, Each(AllOf(Ge(1), Le(98))));
    used.insert(request.prompt.begin(), request.prompt.end());
  }
  EXPECT_EQ(used.size(), 98u);
  PlanOptions options = Options();
  options.vocab_size = 1;
  EXPECT_THROW(LoadPlan{options}, std::invalid_argument);
}

TEST(LoadPlanTest, LengthsFollowTheirDistribution) {
  const auto requests = Take(Options(), 4000);
  double prompt = 0, log_output = 0, log_square = 0;
  for (const PlannedRequest& request : requests) {
    ASSERT_GE(request.prompt.size(), 1u);
    ASSERT_LE(request.prompt.size(), 40u);
    ASSERT_GE(request.output_tokens, 1);
    ASSERT_LE(request.output_tokens, 64);
    prompt += static_cast<double>(request.prompt.size()) / 4000;
    const double output = std::log(request.output_tokens);
    log_output += output / 4000;
    log_square += output * output / 4000;
  }
  EXPECT_NEAR(prompt, 20.5, 0.7);  // 3.8 standard errors
  EXPECT_NEAR(log_output, std::log(20), 0.04);
  EXPECT_NEAR(std::sqrt(log_square - log_output * log_output), 0.5, 0.04);
}

TEST(LoadPlanTest, ArrivalsHaveTheirRate) {
  PlanOptions options = Options();
  options.rate = 50;
  double sum = 0, squares = 0, last = 0;
  const auto requests = Take(options, 4001);
  for (size_t i = 1; i < requests.size(); ++i) {
    const double distance = requests[i].start_seconds - requests[i - 1].start_seconds;
    ASSERT_GE(distance, 0);
    sum += distance / 4000;
    squares += distance * distance / 4000;
  }
  EXPECT_NEAR(sum, 0.02, 0.0013);
  EXPECT_NEAR(std::sqrt(squares - sum * sum), 0.02, 0.002);  // as its mean: exponential
  options.poisson = false;
  for (const PlannedRequest& request : Take(options, 10)) {
    EXPECT_NEAR(request.start_seconds, last, 1e-9);
    last += 0.02;
  }
}

TEST(LoadPlanTest, TheFractionIsCancelledWithinTheAnswer) {
  PlanOptions options = Options();
  EXPECT_FALSE(Take(options, 1)[0].cancel_after);
  options.cancel_fraction = 0.25;
  int cancelled = 0;
  for (const PlannedRequest& request : Take(options, 4000)) {
    if (!request.cancel_after) continue;
    ++cancelled;
    ASSERT_GE(*request.cancel_after, 0);
    ASSERT_LT(*request.cancel_after, request.output_tokens);
  }
  EXPECT_NEAR(cancelled, 1000, 110);
}

TEST(LoadPlanTest, ParsesLengths) {
  Random random(1);
  EXPECT_EQ(ParseLength("128").Draw(random), 128);
  EXPECT_EQ(ParseLength("5-5").Draw(random), 5);
  for (const char* wrong : {"", "0", "-4", "8-4", "1-2-3", "12x", "uniform:1:2", "lognormal:20:1",
                            "lognormal:0:1:9", "lognormal:20:nan:9", "1e9", "99999999"}) {
    EXPECT_THROW(ParseLength(wrong), std::invalid_argument) << wrong;
  }
}

}  // namespace
}  // namespace fla::client
