// The engine with a fake model: who gets which tokens, and how requests end.
#include "server/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/metrics.h"
#include "server/request_queue.h"
#include "server/retry_after.h"
#include "tests/server/event_log.h"
#include "tests/server/fake_model.h"
#include "tests/testing/byte_tokenizer.h"

namespace fla {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ChoiceLog;
using testing::EventLog;
using ::testing::HasSubstr;

// Each with steps that are collected at once, and launched ahead of the host.
class EngineTest : public ::testing::TestWithParam<bool> {
 protected:
  static bool launch_ahead() { return GetParam(); }

  void Start(EngineOptions options = {.slots = 4, .max_batch_tokens = 48}) {
    options.launch_ahead = launch_ahead();
    model_options_.max_batch_tokens =
        std::max(options.max_batch_tokens, options.max_prefill_tokens);
    engine_ =
        std::make_unique<Engine>(testing::MakeFakeModel(model_options_),
                                 testing::MakeByteTokenizer(), options, metrics_.ForModel("fake"));
  }

  static Request MakeRequest(std::vector<int> prompt, int max_new_tokens,
                             std::shared_ptr<EventSink> sink) {
    static std::atomic<uint64_t> next_id = 1;
    Request request;
    request.id = next_id++;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.max_new_tokens = max_new_tokens;
    request.received = Clock::now();
    request.cancelled = std::make_shared<std::atomic<bool>>(false);
    request.sink = std::move(sink);
    return request;
  }

  // The fake model's greedy continuation.
  static std::vector<int> Expected(std::vector<int> prompt, int count) {
    std::vector<int> generated;
    for (int i = 0; i < count; ++i) {
      generated.push_back(testing::FakeNextToken(prompt));
      prompt.push_back(generated.back());
    }
    return generated;
  }

  std::string Scrape() const {
    return prometheus::TextSerializer().Serialize(metrics_.registry()->Collect());
  }
  void ExpectIdle() const {
    EXPECT_EQ(engine_->slots_used(), 0);
    const std::string text = Scrape();
    EXPECT_THAT(text, HasSubstr("fla_requests_running{model=\"fake\"} 0\n"));
    EXPECT_THAT(text, HasSubstr("fla_requests_waiting{model=\"fake\"} 0\n"));
    EXPECT_THAT(text, HasSubstr("fla_state_slots_used{model=\"fake\"} 0\n"));
  }

  testing::FakeModelOptions model_options_;
  Metrics metrics_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(EngineTest, AnswersARequest) {
  Start();
  const auto log = std::make_shared<EventLog>();
  ASSERT_TRUE(engine_->Submit({MakeRequest({10, 20, 30}, 5, log)}).ok());
  const ChoiceLog result = log->Wait();
  const std::vector<int> expected = Expected({10, 20, 30}, 5);
  EXPECT_EQ(result.tokens, expected);
  EXPECT_EQ(result.text, std::string(expected.begin(), expected.end()));
  EXPECT_EQ(result.finish->reason, FinishReason::kLength);
  EXPECT_EQ(result.finish->prompt_tokens, 3);
  EXPECT_EQ(result.finish->completion_tokens, 5);
  ExpectIdle();
  const std::string text = Scrape();
  EXPECT_THAT(text, HasSubstr("fla_prompt_tokens_total{model=\"fake\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("fla_generation_tokens_total{model=\"fake\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("fla_inter_token_latency_seconds_count{model=\"fake\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("fla_time_to_first_token_seconds_count{model=\"fake\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("fla_requests_total{finish_reason=\"length\",model=\"fake\"} 1\n"));
}

TEST_P(EngineTest, GapsBetweenStepsAreThoseWhileThereIsWork) {
  Start();
  const std::string count = "fla_device_gap_seconds_count{model=\"fake\"} ";
  const std::string sum = "fla_device_gap_seconds_sum{model=\"fake\"} ";
  const auto begin = Clock::now();
  for (int request = 1; request <= 2; ++request) {
    const auto log = std::make_shared<EventLog>();
    ASSERT_TRUE(engine_->Submit({MakeRequest({10, 20, 30}, 5, log)}).ok());
    log->Wait();
    // Five steps each, and none between the last of one request and the first of the other.
    EXPECT_THAT(Scrape(), HasSubstr(count + std::to_string(4 * request) + "\n"));
    std::this_thread::sleep_for(milliseconds(50));
  }
  const std::string text = Scrape();
  const double seconds = std::stod(text.substr(text.find(sum) + sum.size()));
  EXPECT_GT(seconds, 0);
  EXPECT_LT(seconds, std::chrono::duration<double>(Clock::now() - begin).count() - 0.1);
}

TEST_P(EngineTest, TokensDoNotDependOnTheCompany) {
  Start({.slots = 5, .max_batch_tokens = 40});
  std::mt19937 random(3);
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  constexpr int kRequests = 80;
  std::vector<std::shared_ptr<EventLog>> logs;
  std::vector<std::vector<int>> prompts;
  std::vector<int> lengths;
  for (int i = 0; i < kRequests; ++i) {
    std::vector<int> prompt(i % 5 == 0 ? draw(100, 400) : draw(1, 30));
    for (int& token : prompt) token = draw(0, 255);
    prompts.push_back(prompt);
    lengths.push_back(draw(1, 40));
    logs.push_back(std::make_shared<EventLog>());
    Request request = MakeRequest(prompt, lengths.back(), logs.back());
    request.due = Clock::now() + seconds(draw(0, 2));
    ASSERT_TRUE(engine_->Submit({request}).ok());
  }
  for (int i = 0; i < kRequests; ++i) {
    const ChoiceLog result = logs[i]->Wait();
    ASSERT_TRUE(result.finish->status.ok()) << result.finish->status;
    EXPECT_EQ(result.tokens, Expected(prompts[i], lengths[i]));
    EXPECT_EQ(result.finishes, 1);
    EXPECT_FALSE(result.event_after_finish);
  }
  ExpectIdle();
}

TEST_P(EngineTest, PromptsAloneHaveALargerBatch) {
  Start({.slots = 4, .max_batch_tokens = 16, .max_prefill_tokens = 64});
  const std::vector<int> prompt(200, 3);
  std::vector<std::shared_ptr<EventLog>> logs;
  for (int i = 0; i < 3; ++i) {
    logs.push_back(std::make_shared<EventLog>());
    ASSERT_TRUE(engine_->Submit({MakeRequest(prompt, 5, logs.back())}).ok());
  }
  for (const auto& log : logs) EXPECT_EQ(log->Wait().tokens, Expected(prompt, 5));
}

TEST_P(EngineTest, MoreSlotsThanTokensInABatch) {
  Start({.slots = 12, .max_batch_tokens = 4});
  std::vector<std::shared_ptr<EventLog>> logs;
  for (int i = 0; i < 12; ++i) {
    logs.push_back(std::make_shared<EventLog>());
    ASSERT_TRUE(engine_->Submit({MakeRequest({i, 7, 9}, 20, logs[i])}).ok());
  }
  for (int i = 0; i < 12; ++i) EXPECT_EQ(logs[i]->Wait().tokens, Expected({i, 7, 9}, 20));
}

TEST_P(EngineTest, SampledTokensDependOnTheSeedAlone) {
  Start();
  const auto generate = [&](uint64_t seed, int company) {
    std::vector<std::shared_ptr<EventLog>> logs;
    for (int i = 0; i <= company; ++i) {
      logs.push_back(std::make_shared<EventLog>());
      Request request = MakeRequest({5, 6}, 30, logs.back());
      request.sampling.temperature = 1.5f;
      request.sampling.seed = seed + i;
      EXPECT_TRUE(engine_->Submit({request}).ok());
    }
    for (const auto& log : logs) log->Wait();
    return logs[0]->Peek().tokens;
  };
  const std::vector<int> alone = generate(11, 0);
  EXPECT_EQ(generate(11, 6), alone);
  EXPECT_NE(generate(12, 0), alone);
}

TEST_P(EngineTest, ChoicesShareASink) {
  Start();
  const auto log = std::make_shared<EventLog>(3);
  std::vector<Request> choices;
  for (int choice = 0; choice < 3; ++choice) {
    choices.push_back(MakeRequest({1, 2, 3}, 4 + choice, log));
    choices.back().choice = choice;
  }
  ASSERT_TRUE(engine_->Submit(choices).ok());
  for (int choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(log->Wait(choice).tokens, Expected({1, 2, 3}, 4 + choice));
  }
}

TEST_P(EngineTest, EndOfTextOfTheConfigStops) {
  Start();
  const auto log = std::make_shared<EventLog>();
  Request request = MakeRequest({1}, 50, log);
  request.min_new_tokens = 3;
  request.sampling.logit_bias = {{testing::kFakeEos, 100.0f}};
  ASSERT_TRUE(engine_->Submit({request}).ok());
  const ChoiceLog result = log->Wait();
  EXPECT_EQ(result.finish->reason, FinishReason::kStop);
  EXPECT_EQ(result.tokens.size(), 4u);
  EXPECT_EQ(result.tokens.back(), testing::kFakeEos);
}

TEST_P(EngineTest, ScoresALongPromptInPieces) {
  Start({.slots = 2, .max_batch_tokens = 48});
  std::vector<int> prompt;
  for (int i = 0; i < 333; ++i) prompt.push_back((i * 37 + i / 7) % 256);
  const auto log = std::make_shared<EventLog>(), other = std::make_shared<EventLog>();
  Request request = MakeRequest(prompt, 0, log);
  request.prompt_logprobs = 2;
  ASSERT_TRUE(engine_->Submit({request, MakeRequest({1, 2}, 20, other)}).ok());
  const ChoiceLog result = log->Wait();
  EXPECT_EQ(result.finish->reason, FinishReason::kLength);
  EXPECT_EQ(result.finish->completion_tokens, 0);
  EXPECT_TRUE(result.tokens.empty());
  ASSERT_EQ(result.prompt_logprobs.size(), prompt.size() - 1);
  for (size_t i = 0; i + 1 < prompt.size(); ++i) {
    const std::span<const int> seen(prompt.data(), i + 1);
    double sum = 0;
    for (int token = 0; token < testing::kFakeVocab; ++token) {
      sum += std::exp(static_cast<double>(testing::FakeLogit(seen, token)));
    }
    const LogprobEntry& entry = result.prompt_logprobs[i];
    ASSERT_EQ(entry.chosen.token, prompt[i + 1]);
    ASSERT_NEAR(entry.chosen.logprob, testing::FakeLogit(seen, prompt[i + 1]) - std::log(sum),
                1e-4);
    ASSERT_EQ(entry.top.size(), 2u);
    ASSERT_EQ(entry.top[0].token, testing::FakeNextToken(seen));
  }
  EXPECT_EQ(other->Wait().tokens, Expected({1, 2}, 20));
}

TEST_P(EngineTest, ScoringAndGeneratingGoTogether) {
  Start();
  const auto log = std::make_shared<EventLog>();
  Request request = MakeRequest({9, 8, 7}, 3, log);
  request.prompt_logprobs = 0;
  request.logprobs = 1;
  ASSERT_TRUE(engine_->Submit({request}).ok());
  const ChoiceLog result = log->Wait();
  EXPECT_EQ(result.prompt_logprobs.size(), 2u);
  EXPECT_EQ(result.tokens, Expected({9, 8, 7}, 3));
  ASSERT_EQ(result.logprobs.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(result.logprobs[i].chosen.token, result.tokens[i]);
    ASSERT_EQ(result.logprobs[i].top.size(), 1u);
    EXPECT_EQ(result.logprobs[i].top[0].logprob, result.logprobs[i].chosen.logprob);
  }
}

TEST_P(EngineTest, ACancelledRequestEndsWithinOneStep) {
  Start();
  auto cancelled = std::make_shared<std::atomic<bool>>(false);
  int tokens = 0, slots_at_finish = -1;
  const auto log = std::make_shared<EventLog>(1, [&](const Event& event) {
    tokens += static_cast<int>(event.tokens.size());
    if (tokens == 3) *cancelled = true;  // on the engine's thread, before its next step
    if (event.finish.has_value()) slots_at_finish = engine_->slots_used();
  });
  Request request = MakeRequest({1}, 1000000, log);
  request.cancelled = cancelled;
  ASSERT_TRUE(engine_->Submit({request}).ok());
  const ChoiceLog result = log->Wait();
  EXPECT_EQ(result.finish->reason, FinishReason::kCancelled);
  EXPECT_TRUE(result.finish->status.ok());
  EXPECT_EQ(result.finish->completion_tokens, 3);
  EXPECT_EQ(slots_at_finish, 0);
  EXPECT_EQ(model_options_.steps, launch_ahead() ? 4 : 3);
  ExpectIdle();
}

// While prompts alone run on the device, what could be launched behind them waits for others.
TEST_P(EngineTest, WhoComesWhilePromptsRunJoinsTheNextBatch) {
  if (!launch_ahead()) GTEST_SKIP() << "nothing runs while the engine waits";
  model_options_.far_from_end = true;
  Start();
  const auto first = std::make_shared<EventLog>(), second = std::make_shared<EventLog>(),
             third = std::make_shared<EventLog>();
  ASSERT_TRUE(engine_->Submit({MakeRequest({10, 20}, 2, first)}).ok());
  while (model_options_.steps == 0) std::this_thread::yield();
  std::this_thread::sleep_for(milliseconds(150));  // longer than the engine looks without a pause
  ASSERT_TRUE(
      engine_->Submit({MakeRequest({11, 20}, 1, second), MakeRequest({12, 20}, 1, third)}).ok());
  while (engine_->slots_used() < 3) std::this_thread::yield();
  EXPECT_EQ(model_options_.steps, 1);
  model_options_.far_from_end = false;
  EXPECT_EQ(first->Wait().tokens, Expected({10, 20}, 2));
  EXPECT_EQ(second->Wait().tokens, Expected({11, 20}, 1));
  EXPECT_EQ(third->Wait().tokens, Expected({12, 20}, 1));
  EXPECT_EQ(model_options_.steps, 2);  // the prompt; its second token with the other two
  ExpectIdle();
}

TEST_P(EngineTest, NobodyWaitsForTheEndOfAStepThatDecodes) {
  Start();
  int tokens = 0;
  const auto log = std::make_shared<EventLog>(1, [&](const Event& event) {
    tokens += static_cast<int>(event.tokens.size());
    if (tokens == 2) model_options_.far_from_end = true;  // on the engine's thread
  });
  ASSERT_TRUE(engine_->Submit({MakeRequest({10, 20}, 50, log)}).ok());
  EXPECT_EQ(log->Wait().tokens, Expected({10, 20}, 50));
  ExpectIdle();
}

TEST_P(EngineTest, ACancelledPromptEndsBeforeItsFirstToken) {
  model_options_.step_milliseconds = 1;
  Start({.slots = 1, .max_batch_tokens = 8});
  const auto log = std::make_shared<EventLog>();
  Request request = MakeRequest(std::vector<int>(100000, 5), 10, log);
  ASSERT_TRUE(engine_->Submit({request}).ok());
  while (engine_->slots_used() == 0) std::this_thread::yield();
  *request.cancelled = true;
  engine_->NotifyCancelled();
  EXPECT_EQ(log->Wait().finish->completion_tokens, 0);
  ExpectIdle();
}

TEST_P(EngineTest, QueuedRequestsCanBeCancelledAndCanExpire) {
  Start({.slots = 1, .max_batch_tokens = 48});
  model_options_.step_milliseconds = 1;
  const auto running = std::make_shared<EventLog>(), queued = std::make_shared<EventLog>(),
             late = std::make_shared<EventLog>();
  const Request first = MakeRequest({1}, 1000000, running);
  const Request second = MakeRequest({2}, 5, queued);
  Request third = MakeRequest({3}, 5, late);
  third.deadline = Clock::now() + milliseconds(20);
  ASSERT_TRUE(engine_->Submit({first}).ok());
  ASSERT_TRUE(engine_->Submit({second}).ok());
  ASSERT_TRUE(engine_->Submit({third}).ok());
  *second.cancelled = true;
  engine_->NotifyCancelled();
  const ChoiceLog cancelled = queued->Wait();
  EXPECT_EQ(cancelled.finish->reason, FinishReason::kCancelled);
  EXPECT_TRUE(cancelled.finish->status.ok());
  EXPECT_EQ(cancelled.finish->times.admitted, Clock::time_point());
  const ChoiceLog expired = late->Wait();
  EXPECT_EQ(expired.finish->reason, FinishReason::kDeadline);
  EXPECT_EQ(expired.finish->status.code(), absl::StatusCode::kDeadlineExceeded);
  *first.cancelled = true;
  running->Wait();
  ExpectIdle();
}

TEST_P(EngineTest, ADeadlineKeepsWhatWasGenerated) {
  model_options_.step_milliseconds = 2;
  Start();
  const auto log = std::make_shared<EventLog>();
  Request request = MakeRequest({1}, 1000000, log);
  request.deadline = Clock::now() + milliseconds(400);
  ASSERT_TRUE(engine_->Submit({request}).ok());
  const ChoiceLog result = log->Wait();
  EXPECT_EQ(result.finish->reason, FinishReason::kDeadline);
  EXPECT_TRUE(result.finish->status.ok());
  EXPECT_EQ(result.tokens, Expected({1}, result.finish->completion_tokens));
  EXPECT_GT(result.finish->completion_tokens, 0);
  EXPECT_GE(result.finish->times.finished, *request.deadline);
  ExpectIdle();
}

TEST_P(EngineTest, WhatGrpcCancelsAtItsDeadlineEndsByTheDeadline) {
  Start({.slots = 1, .max_batch_tokens = 48});
  const Clock::time_point deadline = Clock::now() + milliseconds(50);
  const auto cancelled = std::make_shared<std::atomic<bool>>(false);
  const auto running = std::make_shared<EventLog>(1, [&](const Event&) {
    std::this_thread::sleep_until(deadline);  // on the engine's thread
    *cancelled = true;
  });
  const auto queued = std::make_shared<EventLog>();
  std::vector<Request> requests = {MakeRequest({1}, 1000000, running), MakeRequest({2}, 3, queued)};
  for (Request& request : requests) {
    request.deadline = deadline;
    request.cancelled = cancelled;
    ASSERT_TRUE(engine_->Submit({request}).ok());
  }
  EXPECT_EQ(running->Wait().finish->reason, FinishReason::kDeadline);
  EXPECT_EQ(queued->Wait().finish->reason, FinishReason::kDeadline);
  ExpectIdle();
}

TEST_P(EngineTest, AFullQueueRefusesAllChoices) {
  Start({.slots = 1, .max_batch_tokens = 48, .max_queued_requests = 2});
  model_options_.step_milliseconds = 1;
  const auto running = std::make_shared<EventLog>();
  const Request first = MakeRequest({1}, 1000000, running);
  ASSERT_TRUE(engine_->Submit({first}).ok());
  while (engine_->slots_used() == 0) std::this_thread::yield();
  const auto pair = std::make_shared<EventLog>(2), refused = std::make_shared<EventLog>();
  std::vector<Request> choices = {MakeRequest({2}, 3, pair), MakeRequest({2}, 3, pair)};
  choices[1].choice = 1;
  ASSERT_TRUE(engine_->Submit(choices).ok());
  const absl::Status status = engine_->Submit({MakeRequest({3}, 3, refused)});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("max_queued_requests is 2, 2 wait, 1 came; try again in "));
  EXPECT_TRUE(RetryAfterOf(status).has_value());
  EXPECT_THAT(Scrape(), HasSubstr("fla_admission_rejections_total{model=\"fake\",reason=\"queue_"
                                  "full\"} 1\n"));
  *first.cancelled = true;
  EXPECT_EQ(pair->Wait(0).finish->completion_tokens, 3);
  EXPECT_EQ(pair->Wait(1).finish->completion_tokens, 3);
  EXPECT_EQ(refused->Peek().finishes, 0);
  ExpectIdle();
}

TEST_P(EngineTest, WhoIsDueFirstIsAdmittedFirst) {
  Start({.slots = 1, .max_batch_tokens = 48});
  model_options_.step_milliseconds = 1;
  const auto running = std::make_shared<EventLog>(), low = std::make_shared<EventLog>(),
             high = std::make_shared<EventLog>();
  const Request first = MakeRequest({1}, 1000000, running);
  ASSERT_TRUE(engine_->Submit({first}).ok());
  while (engine_->slots_used() == 0) std::this_thread::yield();
  Request second = MakeRequest({2}, 3, low), third = MakeRequest({3}, 3, high);
  second.due = DueTime(second.received, 1, seconds(10));
  third.due = DueTime(third.received, 0, seconds(10));
  ASSERT_TRUE(engine_->Submit({second}).ok());
  ASSERT_TRUE(engine_->Submit({third}).ok());
  *first.cancelled = true;
  EXPECT_GE(low->Wait().finish->times.admitted, high->Wait().finish->times.finished);
}

TEST_P(EngineTest, DrainWaitsAndRefuses) {
  Start();
  model_options_.step_milliseconds = 1;
  const auto log = std::make_shared<EventLog>();
  ASSERT_TRUE(engine_->Submit({MakeRequest({1}, 30, log)}).ok());
  EXPECT_TRUE(engine_->Drain(Clock::now() + seconds(60)));
  EXPECT_EQ(log->Peek().finishes, 1);
  EXPECT_EQ(log->Peek().finish->reason, FinishReason::kLength);
  EXPECT_EQ(engine_->Submit({MakeRequest({1}, 3, log)}).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(engine_->healthy());
  ExpectIdle();
}

TEST_P(EngineTest, DrainCutsOffWhatTakesTooLong) {
  Start({.slots = 1, .max_batch_tokens = 48});
  model_options_.step_milliseconds = 1;
  const auto running = std::make_shared<EventLog>(), queued = std::make_shared<EventLog>();
  ASSERT_TRUE(engine_->Submit({MakeRequest({1}, 1000000, running)}).ok());
  ASSERT_TRUE(engine_->Submit({MakeRequest({2}, 10, queued)}).ok());
  EXPECT_FALSE(engine_->Drain(Clock::now() + milliseconds(20)));
  for (const auto& log : {running, queued}) {
    EXPECT_EQ(log->Peek().finishes, 1);
    EXPECT_EQ(log->Peek().finish->status.code(), absl::StatusCode::kUnavailable);
  }
  ExpectIdle();
}

TEST_P(EngineTest, DestructionEndsEverything) {
  Start({.slots = 1, .max_batch_tokens = 48});
  model_options_.step_milliseconds = 1;
  const auto running = std::make_shared<EventLog>(), queued = std::make_shared<EventLog>();
  ASSERT_TRUE(engine_->Submit({MakeRequest({1}, 1000000, running)}).ok());
  ASSERT_TRUE(engine_->Submit({MakeRequest({2}, 10, queued)}).ok());
  engine_.reset();
  for (const auto& log : {running, queued}) {
    EXPECT_EQ(log->Peek().finishes, 1);
    EXPECT_EQ(log->Peek().finish->status.code(), absl::StatusCode::kUnavailable);
  }
}

TEST_P(EngineTest, ADeviceFaultEndsAllAndTheEngine) {
  Start({.slots = 1, .max_batch_tokens = 48});
  model_options_.fail_at_step = 5;
  const auto running = std::make_shared<EventLog>(), queued = std::make_shared<EventLog>();
  ASSERT_TRUE(
      engine_->Submit({MakeRequest({1}, 1000000, running), MakeRequest({2}, 10, queued)}).ok());
  for (const auto& log : {running, queued}) {
    const ChoiceLog result = log->Wait();
    EXPECT_EQ(result.finish->status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(result.finish->status.message()), HasSubstr("the fake device broke"));
  }
  // Launching ahead, the token of the step before is still on the device when the fault shows.
  EXPECT_EQ(running->Peek().tokens, Expected({1}, launch_ahead() ? 4 : 5));
  EXPECT_FALSE(engine_->healthy());
  EXPECT_EQ(engine_->Submit({MakeRequest({1}, 3, running)}).code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(engine_->Drain(Clock::now() + seconds(60)));
  ExpectIdle();
}

TEST_P(EngineTest, LogitsThatAreNotFiniteEndOneRequest) {
  Start();
  model_options_.poisoned_token = 200;
  const auto good = std::make_shared<EventLog>(), bad = std::make_shared<EventLog>(),
             scored = std::make_shared<EventLog>();
  Request scoring = MakeRequest({1, 200, 3, 4}, 4, scored);
  scoring.prompt_logprobs = 0;
  ASSERT_TRUE(
      engine_->Submit({MakeRequest({1, 2}, 30, good), MakeRequest({1, 200}, 30, bad), scoring})
          .ok());
  for (const auto& log : {bad, scored}) {
    const ChoiceLog result = log->Wait();
    EXPECT_EQ(result.finish->status.code(), absl::StatusCode::kInternal);
    EXPECT_TRUE(result.tokens.empty());
    EXPECT_TRUE(result.prompt_logprobs.empty());
    EXPECT_EQ(result.finishes, 1);
  }
  EXPECT_EQ(good->Wait().tokens, Expected({1, 2}, 30));
  EXPECT_TRUE(engine_->healthy());
  EXPECT_THAT(Scrape(), HasSubstr("fla_state_nonfinite_total{model=\"fake\"} 2\n"));
  ExpectIdle();
}

TEST_P(EngineTest, ManyClientsSubmitAndCancelAtOnce) {
  Start({.slots = 3, .max_batch_tokens = 16, .max_queued_requests = 8});
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      std::mt19937 random(client);
      for (int i = 0; i < 60; ++i) {
        const int length = 1 + static_cast<int>(random() % 20);
        const auto log = std::make_shared<EventLog>();
        const Request request = MakeRequest({client, i, 3}, length, log);
        absl::Status status = engine_->Submit({request});
        while (status.code() == absl::StatusCode::kResourceExhausted) {
          std::this_thread::yield();
          status = engine_->Submit({request});
        }
        ASSERT_TRUE(status.ok()) << status;
        if (random() % 3 == 0) {
          *request.cancelled = true;
          engine_->NotifyCancelled();
        }
        const ChoiceLog result = log->Wait();
        ASSERT_EQ(result.tokens, Expected({client, i, 3}, result.finish->completion_tokens));
        if (result.finish->reason == FinishReason::kLength) {
          ASSERT_EQ(result.finish->completion_tokens, length);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(engine_->Drain(Clock::now() + seconds(60)));
  ExpectIdle();
}

TEST_P(EngineTest, PenaltiesSeeEveryTokenBefore) {
  Start();
  const auto generate = [&](float penalty) {
    const auto log = std::make_shared<EventLog>(), other = std::make_shared<EventLog>();
    Request request = MakeRequest({4, 4}, 40, log);
    request.sampling.presence_penalty = penalty;
    EXPECT_TRUE(engine_->Submit({request, MakeRequest({8}, 30, other)}).ok());
    EXPECT_EQ(other->Wait().tokens, Expected({8}, 30));
    return log->Wait().tokens;
  };
  EXPECT_EQ(generate(0.0f), Expected({4, 4}, 40));
  // The runner-up is at most 2 below: a penalty of 100 forbids what was there before.
  std::vector<int> tokens = generate(100.0f);
  std::sort(tokens.begin(), tokens.end());
  EXPECT_EQ(std::unique(tokens.begin(), tokens.end()), tokens.end());
}

INSTANTIATE_TEST_SUITE_P(Engine, EngineTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "launch_ahead" : "collect_at_once";
});

TEST(EngineOptionsTest, NamesWhatIsTooSmall) {
  testing::FakeModelOptions model;
  Metrics metrics;
  const auto start = [&](const EngineOptions& options) {
    Engine(testing::MakeFakeModel(model), testing::MakeByteTokenizer(), options,
           metrics.ForModel("fake"));
  };
  EXPECT_THROW(start({.slots = 0}), std::invalid_argument);
  EXPECT_THROW(start({.max_batch_tokens = 1}), std::invalid_argument);
  EXPECT_THROW(start({.max_queued_requests = 0}), std::invalid_argument);
}

}  // namespace
}  // namespace fla
