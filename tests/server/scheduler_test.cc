#include "server/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace fla {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

std::vector<std::pair<int, int>> PiecesOf(const BatchPlan& plan) {
  std::vector<std::pair<int, int>> pieces;
  for (const BatchPlan::Piece& piece : plan.pieces)
    pieces.emplace_back(piece.sequence, piece.tokens);
  return pieces;
}

TEST(SchedulerTest, NothingRunsNothingIsComposed) {
  const BatchPlan plan = ComposeBatch({}, {});
  EXPECT_TRUE(plan.pieces.empty());
  EXPECT_EQ(plan.num_decode, 0);
}

TEST(SchedulerTest, DecodeRowsComeFirst) {
  const std::vector<RunningSequence> running = {{.arrival = 0, .prompt_left = 10},
                                                {.arrival = 1, .position = 5},
                                                {.arrival = 2, .position = 9}};
  const BatchPlan plan = ComposeBatch(running, {.max_tokens = 64});
  EXPECT_EQ(plan.num_decode, 2);
  EXPECT_THAT(PiecesOf(plan), ElementsAre(Pair(1, 1), Pair(2, 1), Pair(0, 10)));
}

TEST(SchedulerTest, PromptsGoByPriorityThenArrival) {
  const std::vector<RunningSequence> running = {
      {.priority = 1, .arrival = 0, .prompt_left = 8},
      {.priority = 0, .arrival = 2, .prompt_left = 8},
      {.priority = 0, .arrival = 1, .prompt_left = 8},
  };
  const BatchPlan plan = ComposeBatch(running, {.max_tokens = 24, .alignment = 1});
  EXPECT_THAT(PiecesOf(plan), ElementsAre(Pair(2, 8), Pair(1, 8), Pair(0, 8)));
}

TEST(SchedulerTest, AloneAPromptTakesTheWholeBatch) {
  const std::vector<RunningSequence> running = {{.prompt_left = 1000}};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, {.max_tokens = 256})), ElementsAre(Pair(0, 256)));
}

TEST(SchedulerTest, AShortPromptPassesALongOne) {
  const std::vector<RunningSequence> running = {{.arrival = 0, .prompt_left = 1000000},
                                                {.arrival = 1, .prompt_left = 50}};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, {.max_tokens = 256})),
              ElementsAre(Pair(0, 192), Pair(1, 50)));
}

TEST(SchedulerTest, PiecesEndAtMultiplesOfTheAlignment) {
  std::vector<RunningSequence> running = {{.position = 0, .prompt_left = 1000}};
  const BatchLimits limits = {.max_tokens = 150, .alignment = 64};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, limits)), ElementsAre(Pair(0, 128)));
  running[0] = {.position = 128, .prompt_left = 149};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, limits)), ElementsAre(Pair(0, 149)));
  running[0] = {.position = 100, .prompt_left = 300};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, limits)), ElementsAre(Pair(0, 92)));
}

TEST(SchedulerTest, TooSmallABatchForTheAlignmentStillMovesAPrompt) {
  const std::vector<RunningSequence> running = {{.arrival = 0, .prompt_left = 1000},
                                                {.arrival = 1, .prompt_left = 1000}};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, {.max_tokens = 40, .alignment = 64})),
              ElementsAre(Pair(0, 40)));
}

TEST(SchedulerTest, ScoredPromptsKeepToTheirRows) {
  const std::vector<RunningSequence> running = {{.arrival = 0, .prompt_left = 300, .scored = true},
                                                {.arrival = 1, .prompt_left = 300, .scored = true},
                                                {.arrival = 2, .prompt_left = 100}};
  const BatchPlan plan =
      ComposeBatch(running, {.max_tokens = 512, .max_scored_rows = 128, .alignment = 64});
  EXPECT_THAT(PiecesOf(plan), ElementsAre(Pair(0, 128), Pair(2, 100)));
}

TEST(SchedulerTest, TooManyDecodeRowsTakeTurnsAndLeaveRoomForAPrompt) {
  std::vector<RunningSequence> running;
  for (uint64_t i = 0; i < 20; ++i) running.push_back({.arrival = i, .position = 3});
  running.push_back({.arrival = 20, .prompt_left = 100});
  const BatchLimits limits = {.max_tokens = 16};
  std::vector<int> turns(20, 0);
  int64_t turn = 0;
  for (int step = 0; step < 10; ++step) {
    const BatchPlan plan = ComposeBatch(running, limits);
    EXPECT_EQ(plan.num_decode, 14);
    ASSERT_EQ(plan.pieces.size(), 15u);
    EXPECT_EQ(plan.pieces.back().sequence, 20);
    EXPECT_EQ(plan.pieces.back().tokens, 2);
    for (int i = 0; i < plan.num_decode; ++i) {
      running[plan.pieces[i].sequence].last_turn = turn++;
      ++turns[plan.pieces[i].sequence];
    }
  }
  EXPECT_EQ(*std::min_element(turns.begin(), turns.end()), 7);  // 10 steps * 14 rows / 20
  EXPECT_EQ(*std::max_element(turns.begin(), turns.end()), 7);
}

// Random requests come and go as they do in the engine; every step is checked.
void Simulate(int seed) {
  std::mt19937 random(seed);
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  struct Simulated {
    RunningSequence view;
    int prompt, to_generate, decoded = 0, fed = 0;
    int64_t waited = 0;  // steps since it last got a token
  };
  const int slots = draw(1, 24);
  BatchLimits limits;
  limits.max_tokens = draw(2, 300);
  limits.max_scored_rows = draw(1, 64);
  limits.alignment = draw(0, 1) ? 64 : draw(1, 32);

  const int total = 60;
  int arrived = 0, finished = 0;
  std::vector<Simulated> running;
  int64_t step = 0, turn = 0;
  while (finished < total) {
    ASSERT_LT(step, 200000) << "does not finish";
    while (arrived < total && static_cast<int>(running.size()) < slots && draw(0, 2) > 0) {
      Simulated s;
      s.prompt = draw(0, 3) == 0 ? draw(1, 2000) : draw(1, 40);
      s.to_generate = draw(0, 30);
      s.view = {.priority = draw(0, 2),
                .arrival = static_cast<uint64_t>(arrived++),
                .prompt_left = s.prompt,
                .scored = draw(0, 4) == 0,
                .last_turn = turn};
      running.push_back(s);
    }
    std::vector<RunningSequence> views;
    for (const Simulated& s : running) views.push_back(s.view);
    const BatchPlan plan = ComposeBatch(views, limits);

    int tokens = 0, scored_rows = 0, prompt_tokens = 0;
    std::set<int> seen;
    for (size_t i = 0; i < plan.pieces.size(); ++i) {
      const auto [index, count] = plan.pieces[i];
      ASSERT_GE(index, 0);
      ASSERT_LT(index, static_cast<int>(running.size()));
      ASSERT_TRUE(seen.insert(index).second) << "a slot is in the batch twice";
      Simulated& s = running[index];
      ASSERT_GE(count, 1);
      const bool decodes = static_cast<int>(i) < plan.num_decode;
      ASSERT_EQ(decodes, s.view.prompt_left == 0);
      if (decodes) {
        ASSERT_EQ(count, 1);
        ++s.decoded;
      } else {
        ASSERT_LE(count, s.view.prompt_left);
        s.view.prompt_left -= count;
        prompt_tokens += count;
        if (s.view.scored) scored_rows += count;
      }
      s.fed += count;
      s.view.position += count;
      s.view.last_turn = turn++;
      s.waited = -1;
      tokens += count;
    }
    ASSERT_LE(tokens, limits.max_tokens);
    ASSERT_LE(scored_rows, limits.max_scored_rows);
    const auto is_prompt = [](const RunningSequence& view) { return view.prompt_left > 0; };
    const bool prompts_wait = std::any_of(views.begin(), views.end(), is_prompt);
    ASSERT_EQ(prompts_wait, prompt_tokens > 0);

    // A row that decodes waits no longer than it takes to go round.
    const int per_step = limits.max_tokens - std::max(1, limits.max_tokens / 8);
    const int round = (slots + per_step - 1) / per_step;
    for (Simulated& s : running) {
      ++s.waited;
      if (s.view.prompt_left == 0) {
        ASSERT_LE(s.waited, round);
      }
    }
    std::erase_if(running, [&](const Simulated& s) {
      if (s.view.prompt_left > 0 || s.decoded < s.to_generate) return false;
      EXPECT_EQ(s.fed, s.prompt + s.to_generate);
      ++finished;
      return true;
    });
    ++step;
  }
}

TEST(SchedulerTest, KeepsItsPromisesInRandomTraffic) {
  for (int seed = 0; seed < 200 && !::testing::Test::HasFatalFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Simulate(seed);
  }
}

}  // namespace
}  // namespace fla
