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

TEST(SchedulerTest, PromptsOfALengthGoByDueTimeThenArrival) {
  const std::vector<RunningSequence> running = {
      {.due = 1, .arrival = 0, .prompt_left = 8},
      {.due = 0, .arrival = 2, .prompt_left = 8},
      {.due = 0, .arrival = 1, .prompt_left = 8},
  };
  const BatchPlan plan = ComposeBatch(running, {.max_tokens = 24, .alignment = 1});
  EXPECT_THAT(PiecesOf(plan), ElementsAre(Pair(2, 8), Pair(1, 8), Pair(0, 8)));
}

TEST(SchedulerTest, AloneAPromptTakesTheWholeBatch) {
  const std::vector<RunningSequence> running = {{.prompt_left = 1000}};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, {.max_tokens = 256})), ElementsAre(Pair(0, 256)));
}

TEST(SchedulerTest, PromptsAloneHaveALargerBatch) {
  const BatchLimits limits = {.max_tokens = 256, .max_prefill_tokens = 512};
  std::vector<RunningSequence> running = {{.arrival = 0, .prompt_left = 1000},
                                          {.arrival = 1, .prompt_left = 100}};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, limits)), ElementsAre(Pair(0, 384), Pair(1, 100)));
  running.push_back({.arrival = 2, .position = 9});
  EXPECT_THAT(PiecesOf(ComposeBatch(running, limits)),
              ElementsAre(Pair(2, 1), Pair(0, 128), Pair(1, 100)));
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

TEST(SchedulerTest, ShortPromptsPassManyLongOnes) {
  std::vector<RunningSequence> running;
  for (uint64_t i = 0; i < 8; ++i) running.push_back({.arrival = i, .prompt_left = 100000});
  running.push_back({.arrival = 8, .prompt_left = 60});
  running.push_back({.arrival = 9, .prompt_left = 30});
  EXPECT_THAT(PiecesOf(ComposeBatch(running, {.max_tokens = 512})),
              ElementsAre(Pair(0, 256), Pair(9, 30), Pair(8, 60), Pair(1, 128)));
}

TEST(SchedulerTest, WhoIsDueFirstMovesWhateverComesAfter) {
  // Less than a chunk for prompts, and an endless supply of shorter ones.
  std::vector<RunningSequence> running = {{.arrival = 0, .prompt_left = 1000},
                                          {.arrival = 1, .prompt_left = 20},
                                          {.arrival = 2, .prompt_left = 20}};
  EXPECT_THAT(PiecesOf(ComposeBatch(running, {.max_tokens = 40, .alignment = 64})),
              ElementsAre(Pair(0, 20), Pair(1, 20)));
}

}  // namespace
}  // namespace fla
