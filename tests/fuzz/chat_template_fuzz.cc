// Any template is refused with the line, or renders any conversation within its bounds to valid
// UTF-8, or fails with the line. The input is a template, a zero byte, and the messages as a JSON
// array.
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat/json.h"
#include "model/chat/lexer.h"
#include "model/chat/template.h"
#include "model/tokenizer.h"
#include "tests/fuzz/input_folder.h"

namespace {

using fla::fuzz::Require;

constexpr std::string_view kMessages =
    R"([{"role": "system", "content": " Be \n"}, {"role": "user", "content": "h\u00e9 <b>"},
        {"role": "assistant", "content": "<think>a</think>b", "tool_calls": [{"id": "123456789",
         "function": {"name": "f", "arguments": {"b": [1, 2.5, null], "a": true}}}]}])";

fla::chat::Value Messages(std::string_view json) {
  try {
    return fla::chat::ParseJsonValue(json);
  } catch (const std::invalid_argument&) {
  } catch (const fla::chat::Failure&) {
  }
  return fla::chat::ParseJsonValue(kMessages);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes = fla::fuzz::BytesOf(data, size);
  const size_t end = bytes.find('\0');
  const std::string_view rest = end == std::string_view::npos ? "" : bytes.substr(end + 1);
  fla::chat::RenderLimits limits;
  limits.max_steps = 100'000;
  limits.max_memory_bytes = 4 << 20;
  limits.max_output_bytes = 1 << 18;
  try {
    const fla::chat::Template parsed(bytes.substr(0, end));
    const std::string text = parsed.Render({{"messages", Messages(rest)},
                                            {"tools", Messages(kMessages)},
                                            {"bos_token", fla::chat::MakeText("<s>")},
                                            {"add_generation_prompt", fla::chat::Value(true)}},
                                           limits);
    Require(text.size() <= limits.max_output_bytes, "the output's size");
    Require(fla::IsValidUtf8(text), "the output is no UTF-8");
  } catch (const fla::chat::SyntaxError& error) {
    Require(std::string_view(error.what()).starts_with("line "), "a syntax error's text");
  } catch (const fla::chat::RefusedByTemplate&) {
  } catch (const fla::chat::RenderError& error) {
    Require(std::string_view(error.what()).starts_with("line "), "an error's text");
  }
  return 0;
}
