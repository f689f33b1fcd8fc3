// The engine with real models: the library's greedy tokens, alone and in company.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "server/engine.h"
#include "server/metrics.h"
#include "tests/server/event_log.h"
#include "tests/testing/byte_tokenizer.h"
#include "tests/testing/devices.h"
#include "tests/testing/expected.h"

namespace fla {
namespace {

using testing::ChoiceLog;
using testing::EventLog;

class EngineGolden : public ::testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  const std::filesystem::path folder =
      std::filesystem::path(FLA_SOURCE_DIR) / "tests/golden" / std::get<0>(GetParam());
  const testing::ExpectedFile expected{folder / "expected.safetensors"};
  const std::vector<int> ids = expected.Ints("input_ids");      // [2, prompt]
  const std::vector<int> greedy = expected.Ints("greedy");      // [2, generated]
  const std::vector<float> logits = expected.Floats("logits");  // [2, prompt, vocab]
  const int prompt_tokens = static_cast<int>(ids.size() / 2);
  const int new_tokens = static_cast<int>(greedy.size() / 2);
  const int vocab = static_cast<int>(logits.size() / ids.size());

  Metrics metrics;

  std::unique_ptr<Model> Load(int max_batch_tokens) const {
    return Model::Load({.path = folder,
                        .device = ParseDevice(std::get<1>(GetParam())),
                        .max_batch_tokens = max_batch_tokens});
  }
  std::unique_ptr<Engine> Start(int max_batch_tokens, StateFormat states = {}) {
    return std::make_unique<Engine>(
        Load(max_batch_tokens), testing::MakeByteTokenizer(),
        EngineOptions{.slots = 8, .max_batch_tokens = max_batch_tokens, .states = states},
        metrics.ForModel("golden"));
  }
  std::vector<int> Prompt(int row) const {
    return {ids.begin() + row * prompt_tokens, ids.begin() + (row + 1) * prompt_tokens};
  }
  std::vector<int> Greedy(int row) const {
    return {greedy.begin() + row * new_tokens, greedy.begin() + (row + 1) * new_tokens};
  }
  Request MakeRequest(std::vector<int> prompt, int max_new_tokens,
                      std::shared_ptr<EventSink> sink) const {
    Request request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.max_new_tokens = max_new_tokens;
    request.ignore_eos = true;
    request.received = Clock::now();
    request.sink = std::move(sink);
    return request;
  }
};

TEST_P(EngineGolden, GreedyTokensAreTheLibrarysAlone) {
  for (int max_batch_tokens : {512, 64}) {  // one prefill, several pieces
    const auto engine = Start(max_batch_tokens);
    for (int row = 0; row < 2; ++row) {
      const auto log = std::make_shared<EventLog>();
      ASSERT_TRUE(engine->Submit({MakeRequest(Prompt(row), new_tokens, log)}).ok());
      EXPECT_EQ(log->Wait().tokens, Greedy(row)) << "batches of " << max_batch_tokens;
    }
  }
}

TEST_P(EngineGolden, TokensAreTheSameAmongOthers) {
  const auto engine = Start(128);
  const auto sampled_request = [&](std::shared_ptr<EventSink> sink) {
    Request request = MakeRequest(Prompt(0), new_tokens, std::move(sink));
    request.sampling.temperature = 1.0f;
    request.sampling.top_p = 0.9f;
    request.sampling.seed = 1234;
    return request;
  };
  const auto alone = std::make_shared<EventLog>();
  ASSERT_TRUE(engine->Submit({sampled_request(alone)}).ok());
  alone->Wait();

  std::mt19937 random(5);
  std::vector<std::shared_ptr<EventLog>> others;
  const auto sampled = std::make_shared<EventLog>();
  const auto rows = {std::make_shared<EventLog>(), std::make_shared<EventLog>()};
  for (int i = 0; i < 32; ++i) {
    std::vector<int> prompt(1 + random() % 200);
    for (int& token : prompt) token = static_cast<int>(random() % vocab);
    others.push_back(std::make_shared<EventLog>());
    ASSERT_TRUE(engine->Submit({MakeRequest(prompt, 1 + random() % 20, others.back())}).ok());
    if (i == 7) {
      ASSERT_TRUE(engine->Submit({sampled_request(sampled)}).ok());
    }
    if (i == 12) {
      int row = 0;
      for (const auto& log : rows) {
        ASSERT_TRUE(engine->Submit({MakeRequest(Prompt(row++), new_tokens, log)}).ok());
      }
    }
  }
  int row = 0;
  for (const auto& log : rows) EXPECT_EQ(log->Wait().tokens, Greedy(row++));
  EXPECT_EQ(sampled->Wait().tokens, alone->Wait().tokens);
  for (const auto& log : others) EXPECT_TRUE(log->Wait().finish->status.ok());
}

TEST_P(EngineGolden, PromptLogprobsAreTheLibrarys) {
  const auto engine = Start(64);
  const auto log = std::make_shared<EventLog>();
  Request request = MakeRequest(Prompt(1), 0, log);
  request.prompt_logprobs = 3;
  ASSERT_TRUE(engine->Submit({request}).ok());
  const ChoiceLog result = log->Wait();
  ASSERT_EQ(static_cast<int>(result.prompt_logprobs.size()), prompt_tokens - 1);
  for (int i = 0; i + 1 < prompt_tokens; ++i) {
    const float* row = &logits[static_cast<size_t>(prompt_tokens + i) * vocab];
    double sum = 0;
    for (int token = 0; token < vocab; ++token) sum += std::exp(static_cast<double>(row[token]));
    const LogprobEntry& entry = result.prompt_logprobs[i];
    ASSERT_EQ(entry.chosen.token, request.prompt[i + 1]);
    EXPECT_NEAR(entry.chosen.logprob, row[entry.chosen.token] - std::log(sum), 2e-3);
    ASSERT_EQ(entry.top.size(), 3u);
    for (const TokenLogprob& top : entry.top) {
      EXPECT_NEAR(top.logprob, row[top.token] - std::log(sum), 2e-3);
    }
  }
}

std::string ParamName(const ::testing::TestParamInfo<EngineGolden::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param);
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, EngineGolden,
                         ::testing::Combine(::testing::Values("kda", "gla-conv-mqa-tied",
                                                              "linear_attn-relu-normqk", "retnet"),
                                            ::testing::ValuesIn(testing::Devices())),
                         ParamName);

// Steps leave their updates beside the states.
class EngineReplay : public EngineGolden {};

TEST_P(EngineReplay, GreedyTokensAreTheLibrarysInCompanyAndInUsedSlots) {
  if (const auto model = Load(128); !TakesReplay(model->stream(), model->config())) {
    GTEST_SKIP() << "no kernels";
  }
  const auto engine = Start(128, {DType::kF32, 4});
  std::mt19937 random(5);
  std::vector<std::shared_ptr<EventLog>> others, rows;
  std::vector<Request> cancelled;
  for (int i = 0; i < 48; ++i) {
    std::vector<int> prompt(1 + random() % 60);
    for (int& token : prompt) token = static_cast<int>(random() % vocab);
    others.push_back(std::make_shared<EventLog>());
    Request request = MakeRequest(prompt, 1 + random() % 40, others.back());
    request.cancelled = std::make_shared<std::atomic<bool>>(false);
    ASSERT_TRUE(engine->Submit({request}).ok());
    if (i % 5 == 4) cancelled.push_back(request);
    if (i % 8 == 3) {
      rows.push_back(std::make_shared<EventLog>());
      ASSERT_TRUE(engine->Submit({MakeRequest(Prompt(i / 8 % 2), new_tokens, rows.back())}).ok());
    }
    if (i % 12 == 11) {
      others[i - 6]->Wait();
      for (const Request& gone : cancelled) gone.cancelled->store(true);
    }
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]->Wait().tokens, Greedy(static_cast<int>(i % 2))) << i;
  }
  for (const auto& log : others) log->Wait();
}

INSTANTIATE_TEST_SUITE_P(Models, EngineReplay,
                         ::testing::Combine(::testing::Values("kda", "gated_deltanet",
                                                              "gla-k64-v128"),
                                            ::testing::ValuesIn(testing::Devices())),
                         ParamName);

}  // namespace
}  // namespace fla
