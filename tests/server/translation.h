// What the tests of translations from messages to requests share.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "server/translate.h"
#include "server/translate_embed.h"

namespace fla::testing {

// Of a Message of the client's, with the demonstration model's tokenizer.
template <typename Message>
class Translation : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { tokenizer_ = Tokenizer::Load(FLA_SOURCE_DIR "/demo/model"); }
  static void TearDownTestSuite() { tokenizer_.reset(); }

  void SetUp() override { config_.vocab_size = tokenizer_->vocab_size(); }

  absl::StatusOr<std::vector<Request>> Run() {
    return Translate(message_, {config_, *tokenizer_, limits_, sampling_, 77});
  }
  // Expects INVALID_ARGUMENT and returns its message.
  std::string Error() {
    const auto requests = Run();
    EXPECT_EQ(requests.status().code(), absl::StatusCode::kInvalidArgument) << requests.status();
    return std::string(requests.status().message());
  }

  inline static std::unique_ptr<Tokenizer> tokenizer_;
  ModelConfig config_;
  Limits limits_;
  GenerationDefaults sampling_;
  Message message_;
};

}  // namespace fla::testing
