#include "server/translate_embed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/server/translation.h"

namespace fla {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TranslateEmbedTest : public testing::Translation<v1::EmbedRequest> {
 protected:
  void SetUp() override {
    Translation::SetUp();
    config_.model_type = "some_type";
    config_.hidden_size = 8;
    message_.add_inputs()->mutable_token_ids()->add_ids(5);
  }

  std::vector<Request> All() {
    auto requests = Run();
    EXPECT_TRUE(requests.ok()) << requests.status();
    return requests.ok() ? *std::move(requests) : std::vector<Request>(1);
  }
  // Another input of `rows` x `columns` vectors, and its bytes.
  std::string& AddVectors(int rows, int columns, const std::vector<float>& values) {
    v1::Vectors& vectors = *message_.add_inputs()->mutable_vectors();
    vectors.set_rows(rows);
    vectors.set_columns(columns);
    vectors.set_values(values.data(), values.size() * sizeof(float));
    return *vectors.mutable_values();
  }
};

TEST_F(TranslateEmbedTest, AnInputIsARequestThatGeneratesNothing) {
  message_.set_request_id("mine");
  message_.set_priority(-3);
  message_.add_inputs()->set_text("Once upon a time");
  const std::vector<Request> requests = All();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_THAT(requests[0].prompt, ElementsAre(5));
  EXPECT_EQ(requests[1].prompt, tokenizer_->Encode("Once upon a time", true));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(requests[i].choice, i);
    EXPECT_EQ(requests[i].client_request_id, "mine");
    EXPECT_EQ(requests[i].priority, -3);
    EXPECT_EQ(requests[i].pooling, Pooling::kLast);
    EXPECT_EQ(requests[i].max_new_tokens, 0);
    EXPECT_EQ(requests[i].prompt_logprobs, -1);
    EXPECT_THAT(requests[i].vectors, IsEmpty());
  }
}

TEST_F(TranslateEmbedTest, ThePoolingIsTheRequestsOrElseTheModels) {
  config_.pooling = Pooling::kMean;
  EXPECT_EQ(All()[0].pooling, Pooling::kMean);
  message_.set_pooling(v1::POOLING_LAST);
  EXPECT_EQ(All()[0].pooling, Pooling::kLast);
  message_.set_pooling(v1::POOLING_ALL);
  EXPECT_EQ(All()[0].pooling, Pooling::kAll);
  message_.set_pooling(static_cast<v1::Pooling>(9));
  EXPECT_THAT(Error(), AllOf(HasSubstr("pooling: "), HasSubstr("got 9")));
}

TEST_F(TranslateEmbedTest, TakesVectorsAsTheyAre) {
  config_.embed_dim = 3;
  AddVectors(2, 3, {1, -2.5, 3e-38f, 4, 5, -3.4e38f});
  const Request request = All()[1];
  EXPECT_THAT(request.vectors, ElementsAre(1, -2.5, 3e-38f, 4, 5, -3.4e38f));
  EXPECT_THAT(request.prompt, ElementsAre(0, 0));
}

TEST_F(TranslateEmbedTest, RefusesVectorsThatDoNotFit) {
  AddVectors(1, 3, {1, 2, 3});
  EXPECT_THAT(Error(), AllOf(HasSubstr("inputs[1].vectors: "), HasSubstr("some_type")));
  config_.embed_dim = 4;
  EXPECT_THAT(Error(),
              HasSubstr("inputs[1].vectors.columns: wanted 4, the model's embed_dim, got 3"));
  config_.embed_dim = 3;
  EXPECT_TRUE(Run().ok());
  v1::Vectors& vectors = *message_.mutable_inputs(1)->mutable_vectors();
  vectors.mutable_values()->pop_back();
  EXPECT_THAT(Error(), AllOf(HasSubstr("inputs[1].vectors.values: wanted 1 x 3 floats, 12 bytes"),
                             HasSubstr("got 11")));
  vectors.set_rows(0);
  EXPECT_THAT(Error(), HasSubstr("inputs[1].vectors.rows: "));
  vectors.set_rows(-1);
  EXPECT_THAT(Error(), HasSubstr("inputs[1].vectors.rows: "));
  limits_.max_prompt_tokens = 7;
  vectors.set_rows(8);
  EXPECT_THAT(Error(), AllOf(HasSubstr("from 1 to 7"), HasSubstr("got 8")));
}

TEST_F(TranslateEmbedTest, NamesWhereAVectorIsNotFinite) {
  config_.embed_dim = 3;
  for (const float bad : {NAN, -INFINITY, INFINITY}) {
    message_.clear_inputs();
    AddVectors(1, 3, {1, 2, 3});
    AddVectors(2, 3, {1, 2, 3, 4, bad, 6});
    EXPECT_THAT(Error(), AllOf(HasSubstr("inputs[1].vectors.values: wanted finite numbers"),
                               HasSubstr("at row 1, column 1")));
  }
}

TEST_F(TranslateEmbedTest, NamesTheInputThatIsWrong) {
  message_.add_inputs();
  EXPECT_THAT(Error(), AllOf(HasSubstr("inputs[1]: "), HasSubstr("none of them")));
  message_.mutable_inputs(1)->mutable_token_ids();
  EXPECT_THAT(Error(), AllOf(HasSubstr("inputs[1].token_ids: wanted 1 to "), HasSubstr("got 0")));
  message_.mutable_inputs(1)->mutable_token_ids()->add_ids(-1);
  EXPECT_THAT(Error(), AllOf(HasSubstr("inputs[1].token_ids: "), HasSubstr("-1 at index 0")));
  message_.mutable_inputs(1)->set_text("\xff");
  EXPECT_THAT(Error(), HasSubstr("inputs[1].text: wanted UTF-8"));
  limits_.max_prompt_tokens = 3;
  message_.mutable_inputs(1)->set_text("Once upon a time there was");
  EXPECT_THAT(Error(), HasSubstr("inputs[1].text: wanted 1 to 3 tokens"));
}

TEST_F(TranslateEmbedTest, HoldsTheLimitsOfARequest) {
  limits_.max_embed_inputs = 2;
  message_.add_inputs()->mutable_token_ids()->add_ids(1);
  EXPECT_TRUE(Run().ok());
  message_.add_inputs()->mutable_token_ids()->add_ids(1);
  EXPECT_THAT(Error(), HasSubstr("inputs: wanted 1 to 2 entries, got 3"));
  message_.clear_inputs();
  EXPECT_THAT(Error(), HasSubstr("inputs: wanted 1 to 2 entries, got 0"));
  message_.add_inputs()->mutable_token_ids()->add_ids(1);
  message_.set_priority(101);
  EXPECT_THAT(Error(), HasSubstr("priority: "));
  message_.clear_priority();
  message_.set_request_id(std::string(257, 'x'));
  EXPECT_THAT(Error(), HasSubstr("request_id: wanted at most 256 bytes, got 257"));
}

TEST_F(TranslateEmbedTest, BoundsTheAnswerBeforeAnythingRuns) {
  limits_.max_embed_bytes = 10 * 8 * 4;
  message_.set_pooling(v1::POOLING_ALL);
  message_.clear_inputs();
  for (const int tokens : {4, 6}) {
    v1::TokenIds& ids = *message_.add_inputs()->mutable_token_ids();
    for (int i = 0; i < tokens; ++i) ids.add_ids(1);
  }
  EXPECT_TRUE(Run().ok());
  message_.mutable_inputs(1)->mutable_token_ids()->add_ids(1);
  EXPECT_THAT(
      Error(),
      AllOf(HasSubstr("inputs[1]: wanted an answer of at most 320 bytes, that is 10 vectors"),
            HasSubstr("got 11")));
  message_.set_pooling(v1::POOLING_MEAN);
  EXPECT_TRUE(Run().ok());
  limits_.max_embed_bytes = 4;
  EXPECT_THAT(Error(), HasSubstr("inputs[0]: wanted an answer of at most 4 bytes"));
}

}  // namespace
}  // namespace fla
