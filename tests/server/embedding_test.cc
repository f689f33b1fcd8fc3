// Embeddings through the engine with a fake model, whose hidden state at a token is a function of
// all tokens up to it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cmath>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "server/engine.h"
#include "server/metrics.h"
#include "server/pooled_states.h"
#include "tests/server/event_log.h"
#include "tests/server/fake_model.h"
#include "tests/testing/byte_tokenizer.h"

namespace fla {
namespace {

using testing::ChoiceLog;
using ::testing::ElementsAre;
using testing::EventLog;
using ::testing::HasSubstr;

TEST(PooledStates, TakesTheLastTheMeanOrAll) {
  const auto pool = [](Pooling pooling, std::vector<std::vector<float>> pieces) {
    PooledStates states(pooling);
    for (size_t i = 0; i < pieces.size(); ++i) {
      const int tokens = static_cast<int>(pieces[i].size()) / 2;
      const int rows = states.RowsOf(tokens, i + 1 == pieces.size());
      EXPECT_TRUE(states.Add(std::span(pieces[i]).last(rows * 2), 2));
    }
    return states.Take();
  };
  EXPECT_THAT(pool(Pooling::kLast, {{1, 2, 3, 4}, {5, 6}, {7, 8, 9, 10}}), ElementsAre(9, 10));
  EXPECT_THAT(pool(Pooling::kMean, {{1, 2, 3, 4}, {5, 6}, {7, 8, 9, 11}}), ElementsAre(5, 6.2f));
  EXPECT_THAT(pool(Pooling::kAll, {{1, 2, 3, 4}, {5, 6}}), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(PooledStates, TheMeanDoesNotDependOnTheCut) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> rows(1000 * 3);
  for (float& value : rows) value = normal(random) * 1e3f;
  PooledStates whole(Pooling::kMean), cut(Pooling::kMean);
  EXPECT_TRUE(whole.Add(rows, 3));
  for (size_t begin = 0; begin < rows.size();) {
    const size_t count = std::min<size_t>(rows.size() - begin, 3 * (1 + random() % 100));
    EXPECT_TRUE(cut.Add(std::span(rows).subspan(begin, count), 3));
    begin += count;
  }
  EXPECT_EQ(whole.Take(), cut.Take());
}

TEST(PooledStates, KnowsWhatIsNotFinite) {
  for (const Pooling pooling : {Pooling::kLast, Pooling::kMean, Pooling::kAll}) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      EXPECT_FALSE(PooledStates(pooling).Add(std::vector<float>{1, bad}, 2));
    }
  }
}

// Each with steps that are collected at once, and launched ahead of the host.
class EmbeddingTest : public ::testing::TestWithParam<bool> {
 protected:
  void Start(EngineOptions options) {
    options.launch_ahead = GetParam();
    model_options_.max_batch_tokens = options.max_batch_tokens;
    engine_ =
        std::make_unique<Engine>(testing::MakeFakeModel(model_options_),
                                 testing::MakeByteTokenizer(), options, metrics_.ForModel("fake"));
  }

  static Request MakeRequest(std::vector<int> prompt, std::optional<Pooling> pooling,
                             std::shared_ptr<EventSink> sink, int choice = 0) {
    Request request;
    request.id = 1;
    request.choice = choice;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.max_new_tokens = pooling ? 0 : 10;
    request.pooling = pooling;
    request.received = Clock::now();
    request.cancelled = std::make_shared<std::atomic<bool>>(false);
    request.sink = std::move(sink);
    return request;
  }

  static std::vector<float> Expected(const std::vector<int>& prompt, Pooling pooling) {
    std::vector<float> all;
    std::vector<double> sum(testing::kFakeHidden);
    for (size_t i = 1; i <= prompt.size(); ++i) {
      const std::vector<float> hidden = testing::FakeHidden(std::span(prompt).first(i));
      all.insert(all.end(), hidden.begin(), hidden.end());
      for (size_t j = 0; j < hidden.size(); ++j) sum[j] += hidden[j];
    }
    if (pooling == Pooling::kAll) return all;
    if (pooling == Pooling::kLast) return {all.end() - testing::kFakeHidden, all.end()};
    std::vector<float> mean;
    for (const double value : sum) mean.push_back(static_cast<float>(value / prompt.size()));
    return mean;
  }

  std::string Scrape() const {
    return prometheus::TextSerializer().Serialize(metrics_.registry()->Collect());
  }

  testing::FakeModelOptions model_options_;
  Metrics metrics_;
  std::unique_ptr<Engine> engine_;
};

TEST_P(EmbeddingTest, RaggedInputsAmongGenerationsAreEachTheirOwn) {
  Start({.slots = 5, .max_batch_tokens = 40, .max_queued_requests = 1000});
  std::mt19937 random(3);
  constexpr int kInputs = 90;
  const auto log = std::make_shared<EventLog>(kInputs), generated = std::make_shared<EventLog>(30);
  std::vector<Request> inputs, choices;
  int tokens = 0;
  for (int i = 0; i < kInputs; ++i) {
    std::vector<int> prompt(i % 7 == 0 ? 100 + random() % 200 : 1 + random() % 30);
    for (int& token : prompt) token = static_cast<int>(random() % 256);
    tokens += static_cast<int>(prompt.size());
    if (i % 3 == 0) {
      choices.push_back(MakeRequest(prompt, std::nullopt, generated, i / 3));
      tokens += static_cast<int>(prompt.size());
    }
    inputs.push_back(MakeRequest(prompt, static_cast<Pooling>(i % 3), log, i));
  }
  ASSERT_TRUE(engine_->Submit(inputs).ok());
  ASSERT_TRUE(engine_->Submit(choices).ok());
  for (int i = 0; i < kInputs; ++i) {
    const ChoiceLog result = log->Wait(i);
    ASSERT_EQ(result.embedding, Expected(inputs[i].prompt, *inputs[i].pooling)) << "input " << i;
    EXPECT_EQ(result.finish->reason, FinishReason::kEmbedded);
    EXPECT_EQ(result.finish->prompt_tokens, static_cast<int>(inputs[i].prompt.size()));
    EXPECT_TRUE(result.tokens.empty() && !result.event_after_finish && result.text.empty());
  }
  for (const Request& choice : choices) {
    std::vector<int> seen = choice.prompt, wanted;
    for (int i = 0; i < 10; ++i) {
      wanted.push_back(testing::FakeNextToken(seen));
      seen.push_back(wanted.back());
    }
    EXPECT_EQ(generated->Wait(choice.choice).tokens, wanted);
  }
  EXPECT_EQ(engine_->slots_used(), 0);
  const std::string text = Scrape();
  EXPECT_THAT(text,
              HasSubstr("fla_requests_total{finish_reason=\"embedded\",model=\"fake\"} 90\n"));
  EXPECT_THAT(text, HasSubstr("fla_requests_total{finish_reason=\"length\",model=\"fake\"} 30\n"));
  EXPECT_THAT(text, HasSubstr("fla_prompt_tokens_total{model=\"fake\"} " + std::to_string(tokens)));
  EXPECT_THAT(text, HasSubstr("fla_generation_tokens_total{model=\"fake\"} 300\n"));
  EXPECT_THAT(text, HasSubstr("fla_time_to_first_token_seconds_count{model=\"fake\"} 30\n"));
  EXPECT_THAT(text, HasSubstr("fla_request_prefill_time_seconds_count{model=\"fake\"} 120\n"));
  EXPECT_THAT(text, HasSubstr("fla_request_decode_time_seconds_count{model=\"fake\"} 30\n"));
}

TEST_P(EmbeddingTest, AHiddenStateThatIsNotFiniteEndsThatInputAlone) {
  Start({.slots = 4, .max_batch_tokens = 16});
  model_options_.poisoned_token = 99;
  const auto log = std::make_shared<EventLog>(3);
  const std::vector<int> bad = {1, 99, 2, 3}, good = {1, 98, 2, 3};
  ASSERT_TRUE(engine_
                  ->Submit({MakeRequest(bad, Pooling::kMean, log, 0),
                            MakeRequest(good, Pooling::kMean, log, 1),
                            MakeRequest(bad, Pooling::kLast, log, 2)})
                  .ok());
  const ChoiceLog failed = log->Wait(0);
  EXPECT_EQ(failed.finish->status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(failed.finish->status.message()), HasSubstr("hidden states"));
  EXPECT_TRUE(failed.embedding.empty());
  EXPECT_EQ(log->Wait(1).embedding, Expected(good, Pooling::kMean));
  EXPECT_EQ(log->Wait(2).embedding, Expected(bad, Pooling::kLast));
  EXPECT_THAT(Scrape(), HasSubstr("fla_state_nonfinite_total{model=\"fake\"} 1\n"));
}

TEST_P(EmbeddingTest, ACancelledInputFreesItsSlot) {
  model_options_.step_milliseconds = 1;
  Start({.slots = 1, .max_batch_tokens = 8});
  const auto log = std::make_shared<EventLog>(), next = std::make_shared<EventLog>();
  const Request request = MakeRequest(std::vector<int>(100000, 5), Pooling::kAll, log);
  ASSERT_TRUE(engine_->Submit({request}).ok());
  while (engine_->slots_used() == 0) std::this_thread::yield();
  ASSERT_TRUE(engine_->Submit({MakeRequest({7, 8}, Pooling::kAll, next)}).ok());
  *request.cancelled = true;
  engine_->NotifyCancelled();
  const ChoiceLog ended = log->Wait();
  EXPECT_EQ(ended.finish->reason, FinishReason::kCancelled);
  EXPECT_TRUE(ended.embedding.empty());
  EXPECT_EQ(next->Wait().embedding, Expected({7, 8}, Pooling::kAll));
  EXPECT_EQ(engine_->slots_used(), 0);
}

INSTANTIATE_TEST_SUITE_P(Engine, EmbeddingTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "LaunchedAhead" : "CollectedAtOnce";
});

}  // namespace
}  // namespace fla
