#include "server/result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

namespace fla {
namespace {

using ::testing::ElementsAre;

Event MakeEvent(int choice, const std::string& text, std::vector<int> tokens) {
  Event event;
  event.choice = choice;
  event.text = text;
  event.tokens = std::move(tokens);
  return event;
}

TEST(EventBuffer, GivesAnEventBackAsItCame) {
  EventBuffer buffer;
  EXPECT_TRUE(buffer.empty());
  buffer.Push(MakeEvent(2, "a", {1}));
  EXPECT_FALSE(buffer.empty());
  const Event event = buffer.Take();
  EXPECT_EQ(event.choice, 2);
  EXPECT_EQ(event.text, "a");
  EXPECT_THAT(event.tokens, ElementsAre(1));
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.waiting(), 0u);
}

TEST(EventBuffer, MergesWhatWaitsOfOneChoiceInOrder) {
  EventBuffer buffer;
  Event first = MakeEvent(0, "a", {1});
  first.prompt_logprobs = {{{9, -9.0f}, {}}};
  first.logprobs = {{{1, -1.0f}, {}}};
  buffer.Push(std::move(first));
  buffer.Push(MakeEvent(1, "x", {7}));
  Event second = MakeEvent(0, "b", {2, 3});
  second.logprobs = {{{2, -2.0f}, {}}, {{3, -3.0f}, {}}};
  second.finish = Finish{.reason = FinishReason::kLength};
  buffer.Push(std::move(second));
  EXPECT_EQ(buffer.waiting(), 3u);

  const Event zero = buffer.Take();
  EXPECT_EQ(zero.choice, 0);
  EXPECT_EQ(zero.text, "ab");
  EXPECT_THAT(zero.tokens, ElementsAre(1, 2, 3));
  ASSERT_EQ(zero.logprobs.size(), 3u);
  EXPECT_EQ(zero.logprobs[2].chosen.token, 3);
  EXPECT_EQ(zero.prompt_logprobs.size(), 1u);
  ASSERT_TRUE(zero.finish);
  EXPECT_EQ(zero.finish->reason, FinishReason::kLength);
  EXPECT_EQ(buffer.waiting(), 1u);

  const Event one = buffer.Take();
  EXPECT_EQ(one.choice, 1);
  EXPECT_FALSE(one.finish);
  EXPECT_TRUE(buffer.empty());
}

TEST(EventBuffer, ClearForgetsEverything) {
  EventBuffer buffer;
  buffer.Push(MakeEvent(0, "a", {1}));
  buffer.Clear();
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.waiting(), 0u);
}

TEST(AppendEvent, FillsTheMessage) {
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::Load(FLA_SOURCE_DIR "/demo/model");
  Event event = MakeEvent(1, "hi", {5, 6});
  const int beyond = tokenizer->vocab_size();
  event.logprobs = {{{5, -0.5f}, {{5, -0.5f}, {beyond, -1.5f}}}};
  event.prompt_logprobs = {{{6, -2.0f}, {}}};
  event.finish = Finish{.reason = FinishReason::kStop, .stop_string = "end"};
  v1::Choice choice;
  v1::GenerateResponse response;
  AppendEvent(event, *tokenizer, choice, *response.mutable_prompt_logprobs());
  EXPECT_EQ(choice.index(), 1);
  EXPECT_EQ(choice.text(), "hi");
  EXPECT_THAT(choice.token_ids(), ElementsAre(5, 6));
  ASSERT_EQ(choice.logprobs_size(), 1);
  EXPECT_EQ(choice.logprobs(0).chosen().token(), tokenizer->TokenBytes(5));
  EXPECT_EQ(choice.logprobs(0).chosen().logprob(), -0.5f);
  ASSERT_EQ(choice.logprobs(0).top_size(), 2);
  EXPECT_EQ(choice.logprobs(0).top(1).token_id(), beyond);
  EXPECT_EQ(choice.logprobs(0).top(1).token(), "");
  ASSERT_EQ(response.prompt_logprobs_size(), 1);
  EXPECT_EQ(response.prompt_logprobs(0).chosen().token_id(), 6);
  EXPECT_EQ(choice.finish().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(choice.finish().stop_string(), "end");
}

TEST(AppendEvent, TellsWhichStopItWas) {
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::Load(FLA_SOURCE_DIR "/demo/model");
  v1::GenerateResponse response;
  Event event;
  event.finish = Finish{.reason = FinishReason::kStop, .stop_token = 0};
  v1::Choice by_token;
  AppendEvent(event, *tokenizer, by_token, *response.mutable_prompt_logprobs());
  EXPECT_EQ(by_token.finish().stop_case(), v1::Finish::kStopTokenId);
  event.finish = Finish{.reason = FinishReason::kLength};
  v1::Choice by_length;
  AppendEvent(event, *tokenizer, by_length, *response.mutable_prompt_logprobs());
  EXPECT_EQ(by_length.finish().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(by_length.finish().stop_case(), v1::Finish::STOP_NOT_SET);
}

TEST(Totals, SpansTheChoices) {
  const Clock::time_point zero = Clock::time_point() + std::chrono::hours(1);
  const auto at = [&](double seconds) {
    return zero +
           std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  };
  Totals totals;
  totals.Add({.prompt_tokens = 7,
              .completion_tokens = 3,
              .times = {at(0), at(1), at(2), at(5), at(5.5), std::chrono::milliseconds(250)}});
  totals.Add({.prompt_tokens = 7,
              .completion_tokens = 4,
              .times = {at(0), at(1.5), at(3), at(9), at(9.5), std::chrono::milliseconds(125)}});
  EXPECT_EQ(totals.finished(), 2);
  EXPECT_EQ(totals.usage().prompt_tokens(), 7);
  EXPECT_EQ(totals.usage().completion_tokens(), 7);
  const v1::Timings timings = totals.timings();
  EXPECT_DOUBLE_EQ(timings.queue_seconds(), 1);
  EXPECT_DOUBLE_EQ(timings.prefill_seconds(), 1);
  EXPECT_DOUBLE_EQ(timings.first_token_seconds(), 2);
  EXPECT_DOUBLE_EQ(timings.decode_seconds(), 7);
  EXPECT_DOUBLE_EQ(timings.total_seconds(), 9.5);
  EXPECT_DOUBLE_EQ(timings.longest_gap_seconds(), 0.25);
}

TEST(Totals, AMomentThatDidNotComeGivesNoSpan) {
  Totals totals;
  Finish finish;
  finish.times.received = Clock::time_point() + std::chrono::seconds(5);
  finish.times.finished = Clock::time_point() + std::chrono::seconds(6);
  totals.Add(finish);
  EXPECT_EQ(totals.timings().queue_seconds(), 0);
  EXPECT_EQ(totals.timings().decode_seconds(), 0);
  EXPECT_EQ(totals.timings().total_seconds(), 1);
}

}  // namespace
}  // namespace fla
