#include "server/translate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "server/field_checks.h"
#include "tests/server/translation.h"

namespace fla {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class TranslateTest : public testing::Translation<v1::GenerateRequest> {
 protected:
  void SetUp() override {
    Translation::SetUp();
    message_.mutable_token_ids()->add_ids(5);
  }

  Request First() {
    const auto choices = Run();
    EXPECT_TRUE(choices.ok()) << choices.status();
    return choices.ok() ? choices->front() : Request();
  }
};

TEST_F(TranslateTest, FillsTheServersDefaults) {
  const Request request = First();
  EXPECT_THAT(request.prompt, ElementsAre(5));
  EXPECT_EQ(request.choice, 0);
  EXPECT_EQ(request.max_new_tokens, limits_.default_max_new_tokens);
  EXPECT_EQ(request.min_new_tokens, 0);
  EXPECT_FALSE(request.include_stop_strings);
  EXPECT_FALSE(request.ignore_eos);
  EXPECT_EQ(request.logprobs, -1);
  EXPECT_EQ(request.prompt_logprobs, -1);
  EXPECT_EQ(request.priority, 0);
  EXPECT_EQ(request.sampling.temperature, 1.0f);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.top_p, 1.0f);
  EXPECT_EQ(request.sampling.min_p, 0.0f);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(request.sampling.presence_penalty, 0.0f);
  EXPECT_EQ(request.sampling.frequency_penalty, 0.0f);
  EXPECT_EQ(request.sampling.seed, 77u);
}

TEST_F(TranslateTest, TakesTheModelsDefaultsWhereTheRequestSaysNothing) {
  sampling_ = {0.5f, 3, 0.75f, 0.25f, 1.5f};
  SamplingOptions sampling = First().sampling;
  EXPECT_EQ(sampling.temperature, 0.5f);
  EXPECT_EQ(sampling.top_k, 3);
  EXPECT_EQ(sampling.top_p, 0.75f);
  EXPECT_EQ(sampling.min_p, 0.25f);
  EXPECT_EQ(sampling.repetition_penalty, 1.5f);

  // Zero that is said is not the same as nothing.
  message_.mutable_sampling()->set_temperature(0);
  message_.mutable_sampling()->set_top_k(0);
  message_.mutable_sampling()->set_min_p(0);
  sampling = First().sampling;
  EXPECT_EQ(sampling.temperature, 0.0f);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.min_p, 0.0f);
  EXPECT_EQ(sampling.top_p, 0.75f);
}

TEST_F(TranslateTest, CopiesEveryField) {
  message_.set_request_id("mine");
  v1::SamplingParams& sampling = *message_.mutable_sampling();
  sampling.set_temperature(0.9f);
  sampling.set_top_k(40);
  sampling.set_top_p(0.8f);
  sampling.set_min_p(0.1f);
  sampling.set_seed(~uint64_t{0});
  sampling.set_repetition_penalty(1.1f);
  sampling.set_presence_penalty(-2.0f);
  sampling.set_frequency_penalty(2.0f);
  (*sampling.mutable_logit_bias())[9] = -100.0f;
  (*sampling.mutable_logit_bias())[3] = 100.0f;
  message_.set_max_new_tokens(50);
  message_.set_min_new_tokens(50);
  message_.add_stop_strings("end");
  message_.add_stop_strings("fin");
  message_.add_stop_token_ids(7);
  message_.set_include_stop_strings(true);
  message_.set_ignore_eos(true);
  message_.set_logprobs(0);
  message_.set_prompt_logprobs(2);
  message_.set_priority(-3);
  const Request request = First();
  EXPECT_EQ(request.client_request_id, "mine");
  EXPECT_EQ(request.sampling.temperature, 0.9f);
  EXPECT_EQ(request.sampling.top_k, 40);
  EXPECT_EQ(request.sampling.top_p, 0.8f);
  EXPECT_EQ(request.sampling.min_p, 0.1f);
  EXPECT_EQ(request.sampling.seed, ~uint64_t{0});
  EXPECT_EQ(request.sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(request.sampling.presence_penalty, -2.0f);
  EXPECT_EQ(request.sampling.frequency_penalty, 2.0f);
  EXPECT_THAT(request.sampling.logit_bias, ElementsAre(Pair(3, 100.0f), Pair(9, -100.0f)));
  EXPECT_EQ(request.max_new_tokens, 50);
  EXPECT_EQ(request.min_new_tokens, 50);
  EXPECT_THAT(request.stop_strings, ElementsAre("end", "fin"));
  EXPECT_THAT(request.stop_tokens, ElementsAre(7));
  EXPECT_TRUE(request.include_stop_strings);
  EXPECT_TRUE(request.ignore_eos);
  EXPECT_EQ(request.logprobs, 0);
  EXPECT_EQ(request.prompt_logprobs, 2);
  EXPECT_EQ(request.priority, -3);
}

TEST_F(TranslateTest, MakesChoicesWithSeedsOfTheirOwn) {
  message_.set_n(3);
  message_.set_prompt_logprobs(1);
  message_.mutable_sampling()->set_seed(10);
  const auto choices = Run();
  ASSERT_TRUE(choices.ok());
  ASSERT_EQ(choices->size(), 3u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ((*choices)[i].choice, i);
    EXPECT_EQ((*choices)[i].sampling.seed, 10u + i);
    EXPECT_EQ((*choices)[i].prompt_logprobs, i == 0 ? 1 : -1);
  }
}

TEST_F(TranslateTest, TokenisesTextWithTheSpecialTokensOfTheModel) {
  message_.set_text("Once upon a time");
  EXPECT_EQ(First().prompt, tokenizer_->Encode("Once upon a time", true));
}

TEST_F(TranslateTest, TakesTokenIdsAsTheyAre) {
  message_.mutable_token_ids()->add_ids(0);
  message_.mutable_token_ids()->add_ids(config_.vocab_size - 1);
  EXPECT_THAT(First().prompt, ElementsAre(5, 0, config_.vocab_size - 1));
}

TEST_F(TranslateTest, RefusesABadPrompt) {
  message_.clear_prompt();
  EXPECT_THAT(Error(), HasSubstr("prompt: wanted text, token_ids or chat, got none"));
  message_.mutable_token_ids();
  EXPECT_THAT(Error(), HasSubstr("token_ids: wanted 1 to 131072 tokens, got 0"));
  message_.mutable_token_ids()->add_ids(-1);
  EXPECT_THAT(Error(), AllOf(HasSubstr("token_ids: wanted token ids from 0 to "),
                             HasSubstr("got -1 at index 0")));
  message_.mutable_token_ids()->set_ids(0, config_.vocab_size);
  EXPECT_THAT(Error(), HasSubstr(std::to_string(config_.vocab_size) + " at index 0"));
  message_.set_text("caf\xc3");
  EXPECT_THAT(Error(), HasSubstr("text: wanted UTF-8"));
  limits_.max_prompt_tokens = 2;
  message_.set_text("Once upon a time there was a king");
  EXPECT_THAT(Error(), HasSubstr("text: wanted 1 to 2 tokens, got "));
}

TEST_F(TranslateTest, RefusesTextWhoseTokensTheModelLacks) {
  config_.vocab_size = 3;
  message_.set_text("Once");
  EXPECT_THAT(Error(), HasSubstr("text: token: wanted token ids from 0 to 2"));
}

TEST_F(TranslateTest, RefusesScoringWithNothingToScore) {
  message_.set_max_new_tokens(0);
  EXPECT_THAT(Error(), HasSubstr("max_new_tokens: wanted at least 1"));
  message_.set_prompt_logprobs(0);
  EXPECT_EQ(First().max_new_tokens, 0);
}

struct BadField {
  const char* field;
  std::function<void(v1::GenerateRequest&)> set;
  const char* bound;
  const char* got;
};

TEST_F(TranslateTest, NamesFieldBoundAndValue) {
  const auto sampling = [](void (v1::SamplingParams::*set)(float), float value) {
    return [=](v1::GenerateRequest& m) { (m.mutable_sampling()->*set)(value); };
  };
  using S = v1::SamplingParams;
  using M = v1::GenerateRequest;
  const std::vector<BadField> bad = {
      {"sampling.temperature", sampling(&S::set_temperature, -0.5f), ">= 0", "got -0.5"},
      {"sampling.temperature", sampling(&S::set_temperature, kNan), ">= 0", "got nan"},
      {"sampling.temperature", sampling(&S::set_temperature, kInfinity), ">= 0", "got inf"},
      {"sampling.top_p", sampling(&S::set_top_p, 0.0f), "(0, 1]", "got 0"},
      {"sampling.top_p", sampling(&S::set_top_p, 1.5f), "(0, 1]", "got 1.5"},
      {"sampling.top_p", sampling(&S::set_top_p, kNan), "(0, 1]", "got nan"},
      {"sampling.min_p", sampling(&S::set_min_p, -0.25f), "[0, 1]", "got -0.25"},
      {"sampling.min_p", sampling(&S::set_min_p, 1.25f), "[0, 1]", "got 1.25"},
      {"sampling.min_p", sampling(&S::set_min_p, kNan), "[0, 1]", "got nan"},
      {"sampling.repetition_penalty", sampling(&S::set_repetition_penalty, 0.0f), "> 0", "got 0"},
      {"sampling.repetition_penalty", sampling(&S::set_repetition_penalty, kInfinity), "> 0",
       "got inf"},
      {"sampling.presence_penalty", sampling(&S::set_presence_penalty, 2.5f), "[-2, 2]", "got 2.5"},
      {"sampling.presence_penalty", sampling(&S::set_presence_penalty, -kInfinity), "[-2, 2]",
       "got -inf"},
      {"sampling.frequency_penalty", sampling(&S::set_frequency_penalty, -2.5f), "[-2, 2]",
       "got -2.5"},
      {"sampling.frequency_penalty", sampling(&S::set_frequency_penalty, kNan), "[-2, 2]",
       "got nan"},
      {"sampling.top_k", [](M& m) { m.mutable_sampling()->set_top_k(-1); }, "from 0 to", "got -1"},
      {"sampling.logit_bias", [](M& m) { (*m.mutable_sampling()->mutable_logit_bias())[-1] = 1; },
       "token ids from 0", "got -1"},
      {"sampling.logit_bias[4]",
       [](M& m) { (*m.mutable_sampling()->mutable_logit_bias())[4] = 101; }, "[-100, 100]",
       "got 101"},
      {"sampling.logit_bias[4]",
       [](M& m) { (*m.mutable_sampling()->mutable_logit_bias())[4] = -kInfinity; }, "[-100, 100]",
       "got -inf"},
      {"sampling.logit_bias",
       [](M& m) {
         for (int i = 0; i < 1025; ++i) (*m.mutable_sampling()->mutable_logit_bias())[i] = 1;
       },
       "at most 1024", "got 1025"},
      {"max_new_tokens", [](M& m) { m.set_max_new_tokens(-1); }, "from 0 to 32768", "got -1"},
      {"max_new_tokens", [](M& m) { m.set_max_new_tokens(32769); }, "from 0 to 32768", "got 32769"},
      {"min_new_tokens", [](M& m) { m.set_min_new_tokens(-1); }, "from 0 to 256", "got -1"},
      {"min_new_tokens", [](M& m) { m.set_min_new_tokens(257); }, "from 0 to 256", "got 257"},
      {"n", [](M& m) { m.set_n(0); }, "from 1 to 16", "got 0"},
      {"n", [](M& m) { m.set_n(17); }, "from 1 to 16", "got 17"},
      {"logprobs", [](M& m) { m.set_logprobs(-1); }, "from 0 to 20", "got -1"},
      {"logprobs", [](M& m) { m.set_logprobs(21); }, "from 0 to 20", "got 21"},
      {"prompt_logprobs", [](M& m) { m.set_prompt_logprobs(21); }, "from 0 to 20", "got 21"},
      {"prompt_logprobs",
       [](M& m) {
         m.set_prompt_logprobs(20);
         for (int i = 1; i < 50000; ++i) m.mutable_token_ids()->add_ids(1);
       },
       "at most 1048576 entries", "got 1050000"},
      {"priority", [](M& m) { m.set_priority(-101); }, "from -100 to 100", "got -101"},
      {"priority", [](M& m) { m.set_priority(INT32_MAX); }, "from -100 to 100", "got 2147483647"},
      {"stop_strings[1]", [](M& m) { m.add_stop_strings("a"), m.add_stop_strings(""); },
       "1 to 256 bytes", "got 0"},
      {"stop_strings[0]", [](M& m) { m.add_stop_strings(std::string(257, 'a')); }, "1 to 256 bytes",
       "got 257"},
      {"stop_strings[0]", [](M& m) { m.add_stop_strings("\xff"); }, "UTF-8", "other bytes"},
      {"stop_strings",
       [](M& m) {
         for (int i = 0; i < 17; ++i) m.add_stop_strings("a");
       },
       "at most 16", "got 17"},
      {"stop_token_ids", [](M& m) { m.add_stop_token_ids(-7); }, "token ids from 0", "got -7"},
      {"stop_token_ids",
       [](M& m) {
         for (int i = 0; i < 65; ++i) m.add_stop_token_ids(1);
       },
       "at most 64", "got 65"},
      {"request_id", [](M& m) { m.set_request_id(std::string(257, 'x')); }, "at most 256 bytes",
       "got 257"},
      {"request_id", [](M& m) { m.set_request_id("\xc0\x80"); }, "UTF-8", "other bytes"},
  };
  for (const BadField& one : bad) {
    SCOPED_TRACE(one.field);
    message_.Clear();
    message_.mutable_token_ids()->add_ids(1);
    one.set(message_);
    const std::string error = Error();
    EXPECT_EQ(error.rfind(std::string(one.field) + ": wanted ", 0), 0u) << error;
    EXPECT_THAT(error, AllOf(HasSubstr(one.bound), HasSubstr(one.got)));
  }
}

TEST_F(TranslateTest, ATemperatureNextToZeroIsGreedy) {
  message_.mutable_sampling()->set_temperature(1e-40f);
  ASSERT_TRUE(Run().ok());
  EXPECT_EQ(Run()->front().sampling.temperature, 0);
}

TEST_F(TranslateTest, TakesValuesOnTheBounds) {
  message_.set_n(16);
  message_.set_max_new_tokens(32768);
  message_.set_min_new_tokens(32768);
  message_.set_logprobs(20);
  message_.set_prompt_logprobs(20);
  message_.mutable_sampling()->set_top_p(1.0f);
  message_.mutable_sampling()->set_min_p(1.0f);
  message_.add_stop_strings(std::string(256, 'a'));
  EXPECT_TRUE(Run().ok()) << Run().status();
}

TEST(Checks, FindTheFirstBadToken) {
  const int32_t ids[] = {1, 2, 10};
  EXPECT_TRUE(CheckTokenIds("ids", ids, 3, 11).ok());
  EXPECT_TRUE(CheckTokenIds("ids", nullptr, 0, 11).ok());
  EXPECT_THAT(std::string(CheckTokenIds("ids", ids, 3, 10).message()),
              HasSubstr("from 0 to 9, got 10 at index 2"));
}

}  // namespace
}  // namespace fla
