#include "server/chat_prompt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/testing/byte_tokenizer.h"
#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kTemplate[] =
    R"({"bos_token": "<s>", "chat_template": "{{ bos_token }}{% for m in messages %})"
    R"({{ m.role }}:{{ m.content if m.content is defined else '-' }}{{ m.name }}{{ m.mood }};)"
    R"({% for c in m.tool_calls %}{{ c.id }}{{ c.function | tojson }}{% endfor %}{% endfor %})"
    R"({% if x %}x{{ x }}{% endif %}{{ tools | length if tools }}{% if add_generation_prompt %}>)"
    R"({% endif %}{% if messages[0].role == 'bad' %}{{ raise_exception('bad role') }}{% endif %}"})";

class ChatPromptTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.vocab_size = tokenizer_->vocab_size();
    Add("user", "Hi");
  }

  void UseTemplate(const std::string& tokenizer_config) {
    folder_.Write("tokenizer_config.json", tokenizer_config);
    chat_ = chat::ChatTemplates::Load(folder_.path());
  }

  v1::ChatMessage& Add(const std::string& role, const std::string& content) {
    v1::ChatMessage& message = *message_.add_messages();
    message.set_role(role);
    message.set_content(content);
    return message;
  }

  absl::StatusOr<std::vector<int>> Run() {
    return PromptOfChat(message_, {config_, *tokenizer_, limits_, {}, 0, chat_.get()});
  }
  // The prompt, whose tokens are bytes.
  std::string Prompt() {
    const auto tokens = Run();
    EXPECT_TRUE(tokens.ok()) << tokens.status();
    return tokens.ok() ? std::string(tokens->begin(), tokens->end()) : "";
  }
  // Expects INVALID_ARGUMENT and returns its message.
  std::string Error() {
    const auto tokens = Run();
    EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument) << tokens.status();
    return std::string(tokens.status().message());
  }

  const testing::TemporaryFolder folder_;
  std::shared_ptr<const Tokenizer> tokenizer_ = testing::MakeByteTokenizer();
  std::unique_ptr<chat::ChatTemplates> chat_;
  ModelConfig config_;
  Limits limits_;
  v1::Chat message_;
};

TEST_F(ChatPromptTest, RendersEveryField) {
  UseTemplate(kTemplate);
  EXPECT_EQ(Prompt(), "<s>user:Hi;>");
  message_.set_add_generation_prompt(false);
  v1::ChatMessage& answer = *message_.add_messages();
  answer.set_role("assistant");
  answer.set_name("N");
  answer.set_extra(R"({"mood": "glad", "nothing": null})");
  v1::ToolCall& call = *answer.add_tool_calls();
  call.set_id("c1");
  call.set_name("f");
  call.set_arguments(R"({"b": 1, "a": "é"})");
  answer.add_tool_calls()->set_name("g");
  message_.set_tools("[{}, {}]");
  message_.set_template_arguments(R"({"x": true, "bos_token": "<t>"})");
  EXPECT_EQ(Prompt(),
            "<t>user:Hi;assistant:-Nglad;c1{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": "
            "\"é\"}}{\"name\": \"g\", \"arguments\": {}}xTrue2");
}

TEST_F(ChatPromptTest, ContinuesTheLastMessage) {
  UseTemplate(kTemplate);
  Add("assistant", "It is ");
  message_.set_continue_final_message(true);
  EXPECT_EQ(Prompt(), "<s>user:Hi;assistant:It is ");
  message_.set_add_generation_prompt(true);
  EXPECT_THAT(Error(), HasSubstr("chat.add_generation_prompt: wanted false"));
}

TEST_F(ChatPromptTest, RefusesWithoutATemplate) {
  EXPECT_THAT(Error(), HasSubstr("chat: wanted a model with a chat template"));
  UseTemplate("{}");
  EXPECT_THAT(Error(), AllOf(HasSubstr("chat: wanted"), HasSubstr("has no chat template")));
  UseTemplate(R"({"chat_template": "a\n{% include 'x' %}"})");
  EXPECT_THAT(Error(), AllOf(HasSubstr("line 2"), HasSubstr("include")));
}

TEST_F(ChatPromptTest, RefusesWhatTheTemplateRefuses) {
  UseTemplate(kTemplate);
  message_.mutable_messages(0)->set_role("bad");
  EXPECT_THAT(Error(), AllOf(HasSubstr("chat: "), HasSubstr("bad role")));
  UseTemplate(R"({"chat_template": "{{ messages[0].content.x.y }}"})");
  EXPECT_THAT(Error(), AllOf(HasSubstr("line 1"), HasSubstr("'x' is undefined")));
  UseTemplate(R"({"chat_template": ""})");
  EXPECT_THAT(Error(), HasSubstr("chat: wanted 1 to"));
}

TEST_F(ChatPromptTest, NamesTheField) {
  UseTemplate(kTemplate);
  v1::ChatMessage& message = Add("assistant", "a");
  message.set_content("\xff");
  EXPECT_THAT(Error(), HasSubstr("chat.messages[1].content: wanted UTF-8"));
  message.set_content("a");
  message.set_extra("[]");
  EXPECT_EQ(Error(), "chat.messages[1].extra: wanted a JSON object, got list");
  message.clear_extra();
  message.add_tool_calls()->set_arguments("{");
  EXPECT_THAT(Error(), HasSubstr("chat.messages[1].tool_calls[0].arguments: wanted a JSON object"));
  message.clear_tool_calls();
  message_.set_tools("{}");
  EXPECT_EQ(Error(), "chat.tools: wanted a JSON array, got dict");
  message_.clear_tools();
  message_.set_template_arguments("1");
  EXPECT_EQ(Error(), "chat.template_arguments: wanted a JSON object, got int");
  message_.clear_template_arguments();
  message_.set_template_name("rag");
  EXPECT_THAT(Error(), HasSubstr("template_name: wanted one of default, got 'rag'"));
}

TEST_F(ChatPromptTest, HasBounds) {
  UseTemplate(kTemplate);
  limits_.max_chat_messages = 1;
  EXPECT_EQ(Prompt(), "<s>user:Hi;>");
  Add("assistant", "a");
  EXPECT_EQ(Error(), "chat.messages: wanted 1 to 1 entries, got 2");
  message_.clear_messages();
  EXPECT_EQ(Error(), "chat.messages: wanted 1 to 1 entries, got 0");
  Add("user", "12345678");
  limits_.max_chat_bytes = 18;
  EXPECT_EQ(Prompt(), "<s>user:12345678;>");
  limits_.max_chat_bytes = 17;
  EXPECT_THAT(Error(), HasSubstr("more than 17 bytes"));
  limits_.max_chat_bytes = 100;
  limits_.max_prompt_tokens = 17;
  EXPECT_THAT(Error(), HasSubstr("chat: wanted 1 to 17 tokens, got 18"));
  message_.set_tools(std::string(200, '['));
  EXPECT_THAT(Error(), AllOf(HasSubstr("chat.tools"), HasSubstr("nested")));
}

}  // namespace
}  // namespace fla
