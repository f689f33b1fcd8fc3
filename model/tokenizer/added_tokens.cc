#include "model/tokenizer/added_tokens.h"

#include <algorithm>
#include <utility>

#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

// Where the last character before `at` begins. `at` > 0.
size_t Before(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool IsWordAt(std::string_view text, size_t at) {
  return unicode::IsWord(unicode::Next(text, &at));
}

bool StandsAlone(std::string_view text, Span span) {
  return (span.begin == 0 || !IsWordAt(text, Before(text, span.begin))) &&
         (span.end == text.size() || !IsWordAt(text, span.end));
}

size_t WithoutTrailingWhitespace(std::string_view text, size_t end) {
  while (end > 0) {
    const size_t before = Before(text, end);
    size_t at = before;
    if (!unicode::IsWhitespace(unicode::Next(text, &at))) break;
    end = before;
  }
  return end;
}

size_t AfterWhitespace(std::string_view text, size_t begin) {
  for (size_t at = begin; at < text.size(); begin = at) {
    if (!unicode::IsWhitespace(unicode::Next(text, &at))) break;
  }
  return begin;
}

}  // namespace

void Insert(AddedToken token, AddedTokenSet* set) {
  if (token.pattern.empty()) return;
  set->trie.Insert(token.pattern, static_cast<int>(set->tokens.size()));
  set->tokens.push_back(std::move(token));
}

void ForEachTextPart(const AddedTokenSet& set, std::string_view text,
                     const std::function<void(TextPart)>& part) {
  size_t done = 0;
  for (size_t at = 0; !set.tokens.empty() && at < text.size();) {
    size_t bytes = 0;
    int found = -1;
    set.trie.ForEachPrefix(text.substr(at), [&](size_t length, int index) {
      bytes = length;
      found = index;
    });
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = set.tokens[found];
    Span span{at, at + bytes};
    at = span.end;
    if (token.single_word && !StandsAlone(text, span)) continue;
    if (token.lstrip) span.begin = std::max(WithoutTrailingWhitespace(text, span.begin), done);
    if (token.rstrip) span.end = AfterWhitespace(text, span.end);
    if (done < span.begin) part({{done, span.begin}, -1});
    part({span, token.id});
    done = span.end;
  }
  // Where a token took whitespace in which another one began, there is no rest.
  if (done < text.size()) part({{done, text.size()}, -1});
}

}  // namespace fla::tokenizer
