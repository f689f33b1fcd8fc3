#include "model/tokenizer/normalizer.h"

#include <algorithm>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/unicode_versions.h"

namespace fla::tokenizer {
namespace {

std::string Apply(unicode::NormalForm form, std::string_view text) {
  return unicode::Normalize(text, form);
}

std::string Apply(const ReplaceAll& replace, std::string_view text) {
  return Replace(replace, text);
}

std::string Apply(const PrependText& prepend, std::string_view text) {
  return text.empty() ? std::string() : prepend.text + std::string(text);
}

std::string Apply(const StripWhitespace& strip, std::string_view text) {
  size_t begin = text.size(), end = 0;  // of what is not whitespace
  for (size_t i = 0; i < text.size();) {
    const size_t here = i;
    if (unicode::IsWhitespace(unicode::Next(text, &i))) continue;
    begin = std::min(begin, here);
    end = i;
  }
  if (begin >= end) return strip.left || strip.right ? std::string() : std::string(text);
  if (!strip.left) begin = 0;
  if (!strip.right) end = text.size();
  return std::string(text.substr(begin, end - begin));
}

std::string Apply(StripAccents, std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t here = i;
    const char32_t c = unicode::Next(text, &i);
    if (!unicode::IsMark(c) || unicode::AddedAfterUnicode9(c)) out.append(text, here, i - here);
  }
  return out;
}

std::string Apply(LowercaseAll, std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) unicode::AppendLowercase(unicode::Next(text, &i), &out);
  return out;
}

std::string Apply(MapToByteLetters, std::string_view text) {
  std::string out;
  for (const char c : text) out += CharacterOfByte(static_cast<unsigned char>(c));
  return out;
}

void FindLiteral(const std::string& literal, std::string_view text,
                 const std::function<void(Span)>& found) {
  for (size_t at = text.find(literal); at != std::string_view::npos;) {
    found({at, at + literal.size()});
    at = text.find(literal, at + literal.size());
  }
}

}  // namespace

void ForEachMatch(const Pattern& pattern, std::string_view text,
                  const std::function<void(Span)>& found) {
  if (const auto* literal = std::get_if<std::string>(&pattern)) {
    FindLiteral(*literal, text, found);
  } else {
    std::get<Regex>(pattern).ForEachMatch(text, found);
  }
}

std::string Replace(const ReplaceAll& replace, std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t copied = 0;
  ForEachMatch(replace.pattern, text, [&](Span match) {
    out.append(text, copied, match.begin - copied);
    out += replace.content;
    copied = match.end;
  });
  out.append(text, copied);
  return out;
}

std::string Normalize(std::span<const Normalizer> normalizers, std::string_view text) {
  std::string out(text);
  for (const Normalizer& normalizer : normalizers) {
    out = std::visit([&](const auto& step) { return Apply(step, out); }, normalizer);
  }
  return out;
}

}  // namespace fla::tokenizer
