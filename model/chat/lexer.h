// A template's text in tokens, with white space taken away as transformers has Jinja do it
// (trim_blocks and lstrip_blocks are on, the last newline goes).
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace fla::chat {

// A template that cannot be used: "line 3: wanted ..., got ...".
class SyntaxError : public std::runtime_error {
 public:
  SyntaxError(int line, const std::string& what);
};

struct Token {
  enum class Kind {
    kText,           // outside of tags
    kVariableBegin,  // {{
    kVariableEnd,
    kBlockBegin,  // {%
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind;
  int line;
  std::string text;  // of a string: its value; of a number: without underscores
};

// The last token is kEnd. Throws SyntaxError.
std::vector<Token> Tokenize(std::string_view source);

}  // namespace fla::chat
