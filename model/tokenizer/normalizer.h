// What a tokenizer.json does to a text before it is split.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/tokenizer/regex.h"
#include "model/unicode.h"

namespace fla::tokenizer {

// A literal, or a regular expression.
using Pattern = std::variant<std::string, Regex>;

// Calls `found` for each match of a pattern, leftmost first and none overlapping.
void ForEachMatch(const Pattern& pattern, std::string_view text,
                  const std::function<void(Span)>& found);

struct ReplaceAll {
  Pattern pattern;
  std::string content;
};
std::string Replace(const ReplaceAll& replace, std::string_view text);

struct PrependText {
  std::string text;  // before every text but the empty one
};
struct StripWhitespace {
  bool left, right;
};
struct StripAccents {};
struct LowercaseAll {};
struct MapToByteLetters {};  // GPT-2's alphabet

using Normalizer = std::variant<unicode::NormalForm, ReplaceAll, PrependText, StripWhitespace,
                                StripAccents, LowercaseAll, MapToByteLetters>;

// Applies the normalizers in their order.
std::string Normalize(std::span<const Normalizer> normalizers, std::string_view text);

}  // namespace fla::tokenizer
