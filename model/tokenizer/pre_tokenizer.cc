#include "model/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <vector>

#include "model/tokenizer/byte_level.h"
#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

using WordSink = std::function<void(std::string_view)>;
using SpanSink = std::function<void(Span)>;

// A part of a text: a match or what stands between two of them.
struct Part {
  Span span;
  bool is_match;
};
using PartSink = std::function<void(Part)>;

// Calls `part` for all parts of `text`; `for_each_match` calls its argument for the matches.
template <typename ForEach>
void ForEachPart(std::string_view text, bool invert, const ForEach& for_each_match,
                 const PartSink& part) {
  size_t end = 0;
  for_each_match([&](Span match) {
    if (end != match.begin) part({{end, match.begin}, invert});
    part({match, !invert});
    end = match.end;
  });
  if (end != text.size()) part({{end, text.size()}, invert});
}

// Joins parts as `behavior` wants and calls `word` for what comes out.
template <typename ForEachPart>
void Join(SplitBehavior behavior, const ForEachPart& for_each_part, const SpanSink& word) {
  if (behavior == SplitBehavior::kIsolated || behavior == SplitBehavior::kRemoved) {
    for_each_part([&](Part part) {
      if (behavior == SplitBehavior::kIsolated || !part.is_match) word(part.span);
    });
    return;
  }
  std::vector<Part> parts;
  for_each_part([&](Part part) { parts.push_back(part); });
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(parts.begin(), parts.end());
  std::vector<Span> words;
  bool previous_match = false;
  for (const Part& part : parts) {
    const bool join = behavior == SplitBehavior::kContiguous ? part.is_match == previous_match
                                                             : part.is_match && !previous_match;
    previous_match = part.is_match;
    if (!join || words.empty()) {
      words.push_back(part.span);
    } else if (backwards) {
      words.back().begin = part.span.begin;
    } else {
      words.back().end = part.span.end;
    }
  }
  if (backwards) std::reverse(words.begin(), words.end());
  for (const Span span : words) word(span);
}

// Splits at the characters for which `is_match` is true.
template <typename Predicate>
void SplitAtCharacters(std::string_view text, SplitBehavior behavior, const Predicate& is_match,
                       const SpanSink& word) {
  const auto for_each_match = [&](const SpanSink& match) {
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      if (is_match(unicode::Next(text, &i))) match({begin, i});
    }
  };
  Join(
      behavior, [&](const PartSink& part) { ForEachPart(text, false, for_each_match, part); },
      word);
}

// The overloads of Step call `next` for the words that one step makes of `text`.

void Step(const SplitAtPattern& split, std::string_view text, bool, const WordSink& next) {
  const auto for_each_match = [&](const SpanSink& match) {
    ForEachMatch(split.pattern, text, match);
  };
  Join(
      split.behavior,
      [&](const PartSink& part) { ForEachPart(text, split.invert, for_each_match, part); },
      [&](Span span) { next(text.substr(span.begin, span.end - span.begin)); });
}

void Step(const ByteLevelWords& words, std::string_view text, bool, const WordSink& next) {
  const bool prepend = words.prepend_space && !text.starts_with(' ');
  if (!prepend && !words.map_bytes) return next(text);
  const std::string spaced = (prepend ? " " : "") + std::string(text);
  if (!words.map_bytes) return next(spaced);
  std::string mapped;
  for (const char c : spaced) mapped += CharacterOfByte(static_cast<unsigned char>(c));
  next(mapped);
}

void Step(const MetaspaceWords& words, std::string_view text, bool at_start, const WordSink& next) {
  std::string replaced = Replace({std::string(" "), words.replacement}, text);
  if (!replaced.starts_with(words.replacement) &&
      (words.prepend == Prepend::kAlways || (words.prepend == Prepend::kFirst && at_start))) {
    replaced.insert(0, words.replacement);
  }
  if (!words.split) return next(replaced);
  const SplitAtPattern split{words.replacement, SplitBehavior::kMergedWithNext, false};
  Step(split, replaced, at_start, next);
}

void Step(SplitAtWhitespace, std::string_view text, bool, const WordSink& next) {
  SplitAtCharacters(text, SplitBehavior::kRemoved, unicode::IsWhitespace,
                    [&](Span span) { next(text.substr(span.begin, span.end - span.begin)); });
}

void Step(const SplitDigits& digits, std::string_view text, bool, const WordSink& next) {
  SplitAtCharacters(text, digits.individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
                    unicode::IsNumber,
                    [&](Span span) { next(text.substr(span.begin, span.end - span.begin)); });
}

void Step(const SplitPunctuation& split, std::string_view text, bool, const WordSink& next) {
  SplitAtCharacters(text, split.behavior, unicode::IsPunctuation,
                    [&](Span span) { next(text.substr(span.begin, span.end - span.begin)); });
}

}  // namespace

SplitAtPattern Gpt2Words() {
  static const Regex regex(
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  return {regex, SplitBehavior::kIsolated, false};
}

SplitAtPattern WordsAndSymbols() {
  // Rust's \w, which has the joiners in addition.
  static const Regex regex(R"([\w\x{200c}\x{200d}]+|[^\w\x{200c}\x{200d}\s]+)");
  return {regex, SplitBehavior::kRemoved, true};
}

void PreTokenize(std::span<const PreTokenizer> steps, std::string_view text, bool at_start,
                 const std::function<void(std::string_view)>& word) {
  if (text.empty()) return;
  if (steps.empty()) return word(text);
  bool first = at_start;
  std::visit(
      [&](const auto& step) {
        Step(step, text, at_start, [&](std::string_view part) {
          PreTokenize(steps.subspan(1), part, first, word);
          first = false;
        });
      },
      steps.front());
}

}  // namespace fla::tokenizer
