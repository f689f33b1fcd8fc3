// Chat templates against what transformers makes of them (tests/model/make_chat_cases.py), and the
// bounds of a rendering.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "model/chat/chat_templates.h"
#include "model/chat/json.h"
#include "model/chat/lexer.h"
#include "model/chat/template.h"
#include "tests/testing/temporary_folder.h"

namespace fla::chat {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;
using testing_folder = fla::testing::TemporaryFolder;

const Json& Cases() {
  static const Json kCases = [] {
    std::ifstream file(FLA_SOURCE_DIR "/tests/model/data/chat_cases.json");
    return Json::parse(file);
  }();
  return kCases;
}

std::vector<std::pair<std::string, Value>> VariablesOf(const Json& object) {
  std::vector<std::pair<std::string, Value>> variables;
  for (const auto& [name, value] : object.items()) {
    variables.emplace_back(name, ParseJsonValue(value.dump()));
  }
  return variables;
}

std::string Rendered(const std::string& source, const RenderLimits& limits = {}) {
  return Template(source).Render(VariablesOf(Cases()["variables"]), limits);
}

TEST(ChatTemplate, SnippetsAreRenderedAsByJinja) {
  for (const Json& test : Cases()["snippets"]) {
    const std::string source = test["template"];
    SCOPED_TRACE(source);
    try {
      const std::string text = Rendered(source);
      ASSERT_TRUE(test.contains("text")) << "wanted an error, got: " << text;
      EXPECT_EQ(text, test["text"].get<std::string>());
    } catch (const SyntaxError& error) {
      EXPECT_TRUE(test.contains("syntax_error")) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("line "));
    } catch (const RefusedByTemplate& refused) {
      ASSERT_TRUE(test.contains("raised")) << refused.what();
      EXPECT_EQ(refused.what(), test["raised"].get<std::string>());
    } catch (const RenderError& error) {
      EXPECT_TRUE(test.contains("error")) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("line "));
    }
  }
}

std::optional<std::string> TextIn(const Json& object, const char* key) {
  if (!object.contains(key) || object[key].is_null()) return std::nullopt;
  return object[key].get<std::string>();
}

Message MessageOf(Json json) {
  Message message;
  message.role = json["role"];
  message.content = TextIn(json, "content");
  message.name = TextIn(json, "name");
  message.reasoning_content = TextIn(json, "reasoning_content");
  message.tool_call_id = TextIn(json, "tool_call_id");
  for (const Json& call : json.value("tool_calls", Json::array())) {
    message.tool_calls.push_back({call["id"], call["function"]["name"],
                                  ParseJsonValue(call["function"]["arguments"].dump())});
  }
  for (const char* key :
       {"role", "content", "name", "reasoning_content", "tool_call_id", "tool_calls"}) {
    json.erase(key);
  }
  if (!json.empty()) message.extra = ParseJsonValue(json.dump());
  return message;
}

Conversation ConversationOf(const Json& chat) {
  Conversation conversation;
  for (const Json& message : chat["messages"]) {
    conversation.messages.push_back(MessageOf(message));
  }
  if (chat.contains("tools")) conversation.tools = ParseJsonValue(chat["tools"].dump());
  if (chat.contains("kwargs")) conversation.arguments = ParseJsonValue(chat["kwargs"].dump());
  conversation.add_generation_prompt = chat.value("add_generation_prompt", true);
  conversation.continue_final_message = chat.value("continue_final_message", false);
  return conversation;
}

class ChatTemplatesTest : public ::testing::Test {
 protected:
  void WriteConfig(const Json& config) { folder_.Write("tokenizer_config.json", config.dump()); }
  std::unique_ptr<ChatTemplates> Load() { return ChatTemplates::Load(folder_.path()); }
  // What ChatError says of one message.
  std::string Error(const Conversation& conversation) {
    try {
      return "rendered: " + Load()->Render(conversation);
    } catch (const ChatError& error) {
      return error.what();
    }
  }

  testing_folder folder_;
  Conversation hello_ = ConversationOf(Json::parse(R"({"messages": [{"role": "user",
                                                      "content": "Hello"}]})"));
};

// Each case: a template, a conversation and what transformers' apply_chat_template gave.
void CheckConversation(const ChatTemplates& templates, const Json& test) {
  SCOPED_TRACE(test["template"].get<std::string>() + ": " +
               test["conversation"].get<std::string>());
  const Json& chat = Cases()["chats"][test["conversation"].get<std::string>()];
  try {
    const std::string text = templates.Render(ConversationOf(chat));
    ASSERT_TRUE(test.contains("text")) << "wanted an error, got: " << text;
    EXPECT_EQ(text, test["text"].get<std::string>());
  } catch (const ChatError& error) {
    if (test.contains("raised")) {
      EXPECT_THAT(error.what(), HasSubstr(test["raised"].get<std::string>()));
    } else {
      EXPECT_TRUE(test.contains("error")) << error.what();
    }
  }
}

TEST_F(ChatTemplatesTest, PublicTemplatesAreRenderedAsByTransformers) {
  int compared = 0;
  for (const auto& [name, source] : Cases()["templates"].items()) {
    Json config = Cases()["tokens"];
    config["chat_template"] = source;
    WriteConfig(config);
    const auto templates = Load();
    EXPECT_EQ(templates->problem(), "") << name;
    for (const Json& test : Cases()["conversations"]) {
      if (test["template"] != name) continue;
      CheckConversation(*templates, test);
      ++compared;
    }
  }
  EXPECT_GT(compared, 200);
}

TEST_F(ChatTemplatesTest, TemplatesOfRealModelsAreRenderedAsByTransformers) {
  const char* tokenizers = std::getenv("FLA_TOKENIZERS");
  if (tokenizers == nullptr) {
    GTEST_SKIP() << "FLA_TOKENIZERS is not set: real models' templates are NOT COMPARED";
  }
  int compared = 0;
  const std::string prefix = "FLA_TOKENIZERS/";
  std::map<std::string, std::unique_ptr<ChatTemplates>> loaded;
  for (const Json& test : Cases()["conversations"]) {
    const std::string name = test["template"];
    if (!name.starts_with(prefix)) continue;
    auto& templates = loaded[name];
    if (templates == nullptr) {
      templates =
          ChatTemplates::Load(std::filesystem::path(tokenizers) / name.substr(prefix.size()));
      EXPECT_FALSE(templates->empty()) << name;
      EXPECT_EQ(templates->problem(), "") << name;
    }
    CheckConversation(*templates, test);
    ++compared;
  }
  EXPECT_GT(compared, 50);
  std::cout << compared << " conversations, " << loaded.size() << " templates\n";
}

TEST_F(ChatTemplatesTest, AreFoundWhereTransformersFindsThem) {
  EXPECT_TRUE(Load()->empty());
  EXPECT_EQ(Error(hello_), "the model has no chat template");
  folder_.Write("chat_template.json", R"({"chat_template": "processor"})");
  EXPECT_EQ(Load()->Render(hello_), "processor");
  WriteConfig({{"chat_template", "config {{ bos_token }}"}, {"bos_token", {{"content", "<b>"}}}});
  EXPECT_EQ(Load()->Render(hello_), "config <b>");
  folder_.Write("chat_template.jinja", "file {{ eos_token }}\n");
  EXPECT_EQ(Load()->Render(hello_), "file ");
  folder_.Write("special_tokens_map.json", R"({"bos_token": "<x>", "eos_token": "<e>"})");
  EXPECT_EQ(Load()->Render(hello_), "file <e>");
  std::filesystem::create_directory(folder_.path() / "additional_chat_templates");
  folder_.Write("additional_chat_templates/tool_use.jinja", "tools");
  EXPECT_EQ(Load()->Render(hello_), "file <e>");
  hello_.tools = ParseJsonValue("[]");
  EXPECT_EQ(Load()->Render(hello_), "tools");
}

TEST_F(ChatTemplatesTest, HaveNames) {
  WriteConfig({{"chat_template", Json::parse(R"([{"name": "default", "template": "d"},
                 {"name": "rag", "template": "r"}, {"name": "broken", "template": "{% x %}"}])")}});
  EXPECT_EQ(Load()->Render(hello_), "d");
  hello_.template_name = "rag";
  EXPECT_EQ(Load()->Render(hello_), "r");
  hello_.template_name = "other";
  EXPECT_EQ(Error(hello_), "template_name: wanted one of broken, default, rag, got 'other'");
  hello_.template_name = "broken";
  EXPECT_THAT(Error(hello_), AllOf(HasSubstr("line 1"), HasSubstr("'x'")));
  EXPECT_THAT(Load()->problem(), AllOf(HasSubstr("tokenizer_config.json"), HasSubstr("'broken'"),
                                       HasSubstr("line 1")));
}

TEST_F(ChatTemplatesTest, MalformedFilesAreErrors) {
  for (const char* config : {R"({"chat_template": 5})", R"({"chat_template": [5]})",
                             R"({"chat_template": [{"name": "a"}]})", "{"}) {
    folder_.Write("tokenizer_config.json", config);
    EXPECT_THROW(Load(), std::runtime_error) << config;
  }
  folder_.Write("tokenizer_config.json", "{}");
  folder_.Write("chat_template.jinja", std::string((1 << 20) + 1, 'a'));
  EXPECT_THROW(Load(), std::runtime_error);
}

TEST_F(ChatTemplatesTest, ErrorsNameTheLineAndTheConstruct) {
  const auto error = [&](const std::string& source) {
    WriteConfig({{"chat_template", source}});
    return Error(hello_);
  };
  EXPECT_THAT(error("a\n\n{{ messages | groupby('x') }}"),
              AllOf(HasSubstr("line 3"), HasSubstr("groupby")));
  EXPECT_THAT(error("\n{% include 'x' %}"), AllOf(HasSubstr("line 2"), HasSubstr("include")));
  EXPECT_THAT(error("\n{% for x in y recursive %}{% endfor %}"), HasSubstr("line 2: recursive"));
  EXPECT_THAT(error("a\n{{ 1 }}\n{{ messages[0].what.now }}"),
              AllOf(HasSubstr("line 3"), HasSubstr("'what' is undefined")));
  EXPECT_THAT(error("{{ f(*messages) }}"), HasSubstr("with * or **"));
  EXPECT_EQ(error("{{ raise_exception('No!') }}"), "the model's chat template refuses: No!");
}

TEST(ChatJson, KeepsWhatPythonKeeps) {
  Meter meter{RenderLimits()};
  const std::string json = R"({"b": 1, "a": [1.0, -0.0, 1e22, true, null, "é\u0000"], "b": 2})";
  EXPECT_EQ(ToJson(ParseJsonValue(json), {}, meter),
            R"({"b": 2, "a": [1.0, -0.0, 1e+22, true, null, "é\u0000"]})");
  for (const char* wrong : {"", "{", "[1] 2", "18446744073709551616", "9223372036854775808",
                            "-9223372036854775809", "\"\xff\""}) {
    EXPECT_THROW(ParseJsonValue(wrong), std::invalid_argument) << wrong;
  }
  EXPECT_EQ(ToJson(ParseJsonValue("-9223372036854775808"), {}, meter), "-9223372036854775808");
  EXPECT_THROW(ParseJsonValue(std::string(65, '[') + std::string(65, ']')), std::invalid_argument);
  EXPECT_NO_THROW(ParseJsonValue(std::string(64, '[') + std::string(64, ']')));
}

// Templates that would take too much: each must end soon with an error that says which bound.
class BoundsTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(BoundsTest, EndsSoon) {
  const auto& [source, wanted] = GetParam();
  const auto begin = std::chrono::steady_clock::now();
  try {
    Rendered(source);
    FAIL() << "rendered";
  } catch (const std::exception& error) {
    EXPECT_THAT(error.what(), HasSubstr(wanted));
  }
  // Far above what it takes, for busy machines and sanitizers, and far below no bound at all.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

#define RANGES "{% for a in range(99999) %}{% for b in range(99999) %}"
INSTANTIATE_TEST_SUITE_P(
    All, BoundsTest,
    ::testing::Values(
        std::pair(RANGES "{% endfor %}{% endfor %}", "steps"),
        std::pair(RANGES "{% if a > b %}{% endif %}{% endfor %}{% endfor %}", "steps"),
        std::pair("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper"),
        std::pair("{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper"),
        std::pair("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
                  "{{ m(40) }}",
                  "steps"),
        std::pair("{% set ns = namespace(s='x') %}{% for i in range(99) %}"
                  "{% set ns.s = ns.s + ns.s %}{% endfor %}",
                  "memory"),
        std::pair("{% set ns = namespace(s=[1]) %}{% for i in range(99) %}"
                  "{% set ns.s = ns.s + ns.s %}{% endfor %}",
                  "memory"),
        std::pair("{% set ns = namespace(s='x') %}{% for i in range(9) %}"
                  "{% set ns.s = ns.s | replace('x', 'x' * 999) %}{% endfor %}",
                  "memory"),
        std::pair("{{ 'x' * 999999999999 }}", "memory"),
        std::pair("{{ [1] * 9223372036854775807 }}", "memory"),
        std::pair("{{ 'a\\nb' | indent(9223372036854775807) }}", "memory"),
        std::pair("{{ [[1]] | tojson(indent=999999999) }}", "memory"),
        std::pair("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "bytes"),
        std::pair("{% set x %}" RANGES "{{ 'x' * 999 }}{% endfor %}{% endfor %}{% endset %}",
                  "memory"),
        // Values that share their parts: small, and vast when printed or compared.
        std::pair("{% set ns = namespace(s=[1]) %}{% for i in range(60) %}"
                  "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
                  ""),
        std::pair("{% set ns = namespace(s=[1]) %}{% for i in range(60) %}"
                  "{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
                  ""),
        std::pair("{% set a = namespace(s=[1]) %}{% set b = namespace(s=[1]) %}"
                  "{% for i in range(60) %}{% set a.s = [a.s, a.s] %}{% set b.s = [b.s, b.s] %}"
                  "{% endfor %}{{ a.s == b.s }}",
                  "steps"),
        std::pair("{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}"
                  "{% set ns.s = [ns.s] %}{% endfor %}",
                  "nested deeper"),
        std::pair("{% set ns = namespace(s=dict) %}{% for i in range(9999) %}"
                  "{% set ns.s = {'a': ns.s} %}{% endfor %}",
                  "nested deeper"),
        std::pair("{% set ns = namespace(s=[1]) %}{% for i in range(9999) %}"
                  "{% set ns.s = [ns.s].count %}{% endfor %}",
                  "nested deeper"),
        std::pair("{% set ns = namespace(l=1) %}{% for i in range(9999) %}"
                  "{% for j in [ns.l] %}{% set ns.l = loop %}{% endfor %}{% endfor %}",
                  "nested")));

TEST(Bounds, LongChainsOfNamespacesAreFreed) {
  EXPECT_EQ(Rendered("{% set ns = namespace(a=1) %}{% for i in range(99999) %}"
                     "{% set ns.a = namespace(b=ns.a) %}{% endfor %}x"),
            "x");
  EXPECT_EQ(Rendered("{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.l = [ns] %}x"), "x");
  EXPECT_EQ(Rendered("{% set ns = namespace() %}{% for i in [1, 2] %}{% macro m() %}{{ i }}"
                     "{% endmacro %}{% set ns.m = m %}{% set ns.loop = loop %}{% endfor %}"
                     "{{ ns.m() }}{{ ns.loop.last }}"),
            "2True");
}

TEST(Bounds, NestingOfTheSource) {
  const auto error = [](const std::string& source) -> std::string {
    try {
      const Template parsed(source);
      return "parsed";
    } catch (const SyntaxError& syntax) {
      return syntax.what();
    }
  };
  const auto repeat = [](const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
  };
  constexpr std::pair<const char*, const char*> kBrackets[] = {
      {"(", ")"},      {"[", "]"},    {"{1:", "}"},     {"-", ""},          {"not ", ""},
      {"a[", "]"},     {"f(", ")"},   {"a|join(", ")"}, {"a is eq(", ")"},  {"1 if 1 else ", ""},
      {"a.b(c=", ")"}, {"a[1:", "]"}, {"a[::", "]"},    {"a is in [", "]"},
  };
  for (const auto& [open, close] : kBrackets) {
    const std::string source = "{{ " + repeat(open, 50000) + "1" + repeat(close, 50000) + " }}";
    EXPECT_THAT(error(source), HasSubstr("deeper")) << open;
  }
  EXPECT_THAT(error("{{ 1" + repeat(" + 1", 100000) + " }}"), HasSubstr("deeper"));
  EXPECT_THAT(error("{{ a" + repeat(".b", 100000) + " }}"), HasSubstr("deeper"));
  EXPECT_THAT(error("{{ a" + repeat("|trim", 100000) + " }}"), HasSubstr("deeper"));
  EXPECT_THAT(error(repeat("{% if 1 %}", 50000)), HasSubstr("deeper"));
  EXPECT_THAT(error("{% set " + repeat("(", 50000) + "a" + repeat(")", 50000) + " = 1 %}"),
              HasSubstr("deeper"));
  EXPECT_THAT(error(std::string((1 << 20) + 1, 'a')), HasSubstr("1048576"));
  EXPECT_EQ(error("{{ [" + repeat("1, ", 100000) + "] }}"), "parsed");
  EXPECT_EQ(error("{% if 0 %}" + repeat("{% elif 1 %}", 20000) + "{% endif %}"), "parsed");
}

// Searching in what a client sends takes time in proportion to it.
TEST(Bounds, SearchesAreLinear) {
  const std::string a(1 << 20, 'a');
  const std::vector<std::pair<std::string, Value>> variables = {{"text", MakeText(a + a)},
                                                                {"part", MakeText(a + "b")}};
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(Template("{{ part in text }}{{ text.find(part) }}{{ text.count(part) }}"
                     "{{ text.split(part) | length }}{{ text.replace(part, '') | length }}")
                .Render(variables),
            "False-1012097152");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  EXPECT_THROW(Template("{{ text.rsplit(part, 1) | length }}").Render(variables), RenderError);
}

}  // namespace
}  // namespace fla::chat
