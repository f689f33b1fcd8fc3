#include "model/chat/lexer.h"

#include <algorithm>
#include <cctype>

#include "model/chat/text.h"
#include "model/unicode.h"

namespace fla::chat {

SyntaxError::SyntaxError(int line, const std::string& what)
    : std::runtime_error("line " + std::to_string(line) + ": " + what) {}

namespace {

// Line ends as \n, without the last one.
std::string NormalizeNewlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(NormalizeNewlines(source)) {}

  std::vector<Token> Run() {
    while (at_ < source_.size()) ReadText();
    Add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  using Kind = Token::Kind;

  void Add(Kind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  std::string_view Rest() const { return std::string_view{source_}.substr(at_); }

  // Moves past `bytes` bytes, counting lines.
  void Skip(size_t bytes) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(at_ + bytes),
                                         '\n'));
    at_ += bytes;
  }

  // White space, also that of other scripts.
  void SkipSpace() {
    const std::string_view rest = Rest();
    Skip(rest.size() - Strip(rest, std::nullopt, {true, false}).size());
  }

  // The text up to the next tag, and that tag.
  void ReadText() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        AddText(source_.size(), '+', false);
        return;
      }
      const char c = source_[tag + 1];
      if (c == '{' || c == '%' || c == '#') break;
      ++tag;
    }
    const char type = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
    const bool has_sign = sign == '-' || sign == '+';
    AddText(tag, has_sign ? sign : ' ', type == '{');
    const size_t raw = type == '%' ? RawTagBytes(at_, "raw") : 0;
    if (raw > 0) return ReadRaw(raw);
    if (type != '#') Add(type == '{' ? Kind::kVariableBegin : Kind::kBlockBegin, "");
    Skip(has_sign ? 3 : 2);
    if (type == '#') {
      ReadComment();
    } else {
      ReadTag(type == '{');
    }
  }

  // Adds the text up to `end`; `sign` stands in the tag after it.
  void AddText(size_t end, char sign, bool before_variable) {
    std::string_view text = std::string_view{source_}.substr(at_, end - at_);
    if (sign == '-') {
      text = Strip(text, std::nullopt, {false, true});
    } else if (sign != '+' && !before_variable) {
      const size_t newline = text.rfind('\n');
      const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line > 0 || line_begins_) && IsAllSpace(text.substr(line))) text = text.substr(0, line);
    }
    if (!text.empty()) Add(Kind::kText, std::string(text));
    Skip(end - at_);
  }

  // Moves past the end of a tag, `bytes` long, and the white space that goes with it.
  void SkipEnd(size_t bytes, bool strip, bool trim_newline) {
    Skip(bytes);
    if (strip) {
      SkipSpace();
    } else if (trim_newline && at_ < source_.size() && source_[at_] == '\n') {
      Skip(1);
    }
    line_begins_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  void ReadComment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) throw SyntaxError(line_, "wanted #} after {#, got the end");
    const char sign = end > at_ ? source_[end - 1] : ' ';
    Skip(end - at_);
    SkipEnd(2, sign == '-', sign != '+');
  }

  // The length of the tag {% name %} at `begin`, of its end sign and no white space after it; 0
  // where another tag stands there.
  size_t RawTagBytes(size_t begin, std::string_view name) const {
    size_t i = begin + 2;
    const auto skip_space = [&] {
      while (i < source_.size() && std::isspace(static_cast<unsigned char>(source_[i]))) ++i;
    };
    if (i < source_.size() && (source_[i] == '-' || source_[i] == '+')) ++i;
    skip_space();
    if (source_.compare(i, name.size(), name) != 0) return 0;
    i += name.size();
    skip_space();
    if (i < source_.size() && (source_[i] == '-' || (source_[i] == '+' && name == "endraw"))) ++i;
    return source_.compare(i, 2, "%}") == 0 ? i + 2 - begin : 0;
  }

  void ReadRaw(size_t begin_bytes) {
    SkipEnd(begin_bytes, source_[at_ + begin_bytes - 3] == '-', false);
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 1)) {
      const size_t bytes = RawTagBytes(tag, "endraw");
      if (bytes == 0) continue;
      const char sign = source_[tag + 2], end_sign = source_[tag + bytes - 3];
      AddText(tag, sign, false);
      return SkipEnd(bytes, end_sign == '-', end_sign != '+');
    }
    throw SyntaxError(line_, "wanted {% endraw %} after {% raw %}, got the end");
  }

  // The tokens of a tag, and its end.
  void ReadTag(bool variable) {
    const std::string_view close = variable ? "}}" : "%}";
    std::string open;  // brackets
    while (true) {
      SkipSpace();
      if (at_ >= source_.size()) {
        throw SyntaxError(line_, "wanted " + std::string(close) + ", got the end");
      }
      const char c = source_[at_];
      const bool sign = c == '-' || (c == '+' && !variable);
      if (open.empty() && source_.compare(at_ + (sign ? 1 : 0), 2, close) == 0) {
        Add(variable ? Kind::kVariableEnd : Kind::kBlockEnd, "");
        return SkipEnd(sign ? 3 : 2, c == '-', !variable && c != '+');
      }
      if (IsDigit(c)) {
        ReadNumber();
      } else if (IsNameStart(c)) {
        const size_t begin = at_;
        while (at_ < source_.size() && IsNamePart(source_[at_])) ++at_;
        Add(Kind::kName, source_.substr(begin, at_ - begin));
      } else if (c == '\'' || c == '"') {
        ReadString(c);
      } else {
        ReadOperator(&open);
      }
    }
  }

  void ReadNumber() {
    const std::string_view rest = Rest();
    size_t i = 0;
    const auto digits = [&](auto is_digit) {
      const size_t begin = i;
      while (i < rest.size() &&
             (is_digit(rest[i]) ||
              (rest[i] == '_' && i > begin && i + 1 < rest.size() && is_digit(rest[i + 1])))) {
        ++i;
      }
      return i > begin;
    };
    const char base = rest.size() > 2 && rest[0] == '0' ? static_cast<char>(rest[1] | 0x20) : ' ';
    bool is_float = false;
    if (base == 'x' || base == 'o' || base == 'b') {
      i = 2;
      digits([&](char c) {
        return base == 'x' ? std::isxdigit(static_cast<unsigned char>(c)) != 0
                           : c >= '0' && c <= (base == 'o' ? '7' : '1');
      });
    } else {
      digits(IsDigit);
      // A digit must follow the point: 1.real is an attribute. And x.0.1 has no fraction.
      const bool after_point = at_ > 0 && source_[at_ - 1] == '.';
      if (!after_point && i + 1 < rest.size() && rest[i] == '.' && IsDigit(rest[i + 1])) {
        ++i;
        is_float = digits(IsDigit);
      }
      size_t exponent = i + 1;
      if (exponent < rest.size() && (rest[exponent] == '+' || rest[exponent] == '-')) ++exponent;
      if (!after_point && i < rest.size() && (rest[i] | 0x20) == 'e' && exponent < rest.size() &&
          IsDigit(rest[exponent])) {
        i = exponent;
        is_float = digits(IsDigit);
      }
    }
    std::string text(rest.substr(0, i));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    Add(is_float ? Kind::kFloat : Kind::kInteger, std::move(text));
    Skip(i);
  }

  void ReadString(char quote) {
    const int line = line_;
    std::string value;
    size_t i = at_ + 1;
    while (true) {
      if (i >= source_.size()) throw SyntaxError(line, "wanted the end of a string, got the end");
      const char c = source_[i++];
      if (c == quote) break;
      if (c != '\\') {
        value += c;
      } else if (i < source_.size()) {
        ReadEscape(&i, &value);
      }
    }
    Add(Kind::kString, std::move(value));
    Skip(i - at_);
  }

  // As Python reads an escape; `i` is behind the backslash.
  void ReadEscape(size_t* i, std::string* value) {
    const char c = source_[(*i)++];
    constexpr std::string_view kLetters = "\\'\"abfnrtv", kValues = "\\'\"\a\b\f\n\r\t\v";
    if (c == '\n') return;
    if (const size_t known = kLetters.find(c); known != std::string_view::npos) {
      *value += kValues[known];
      return;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    const bool octal = c >= '0' && c <= '7';
    if (c == 'N') throw SyntaxError(line_, "escapes \\N{name} are not supported");
    if (digits == 0 && !octal) {
      value->append({'\\', c});
      return;
    }
    const size_t begin = octal ? *i - 1 : *i;
    const size_t most = std::min(source_.size(), begin + (octal ? 3 : digits));
    uint32_t code = 0;
    size_t end = begin;
    for (; end < most; ++end) {
      const char d = source_[end];
      if (octal ? d < '0' || d > '7' : !std::isxdigit(static_cast<unsigned char>(d))) break;
      code = code * (octal ? 8 : 16) +
             static_cast<uint32_t>(IsDigit(d) ? d - '0' : (d | 0x20) - 'a' + 10);
    }
    if ((!octal && end != begin + digits) || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      throw SyntaxError(line_, "wanted an escape of a character, got \\" + std::string(1, c));
    }
    unicode::Append(code, value);
    *i = end;
  }

  void ReadOperator(std::string* open) {
    static constexpr std::string_view kOperators[] = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const auto* known =
        std::find_if(std::begin(kOperators), std::end(kOperators),
                     [&](std::string_view text) { return Rest().starts_with(text); });
    if (known == std::end(kOperators)) {
      throw SyntaxError(line_, "wanted an expression, got '" + std::string(1, source_[at_]) + "'");
    }
    const char c = (*known)[0];
    if (c == '(' || c == '[' || c == '{') *open += c;
    if (c == ')' || c == ']' || c == '}') {
      const char opening = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open->empty() || open->back() != opening) {
        throw SyntaxError(line_, "'" + std::string(1, c) + "' closes nothing");
      }
      open->pop_back();
    }
    Add(Kind::kOperator, std::string(*known));
    Skip(known->size());
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_begins_ = true;  // whether the last tag ended with a newline
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace fla::chat
