// The tokens of a tokenizer.json that are taken out of a text before the model sees it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/byte_trie.h"
#include "model/tokenizer/regex.h"

namespace fla::tokenizer {

struct AddedToken {
  int id;
  std::string text;
  std::string pattern;  // what is looked for in texts; empty: nothing
  bool special = false;
  bool normalized = false;   // looked for in the normalised text
  bool single_word = false;  // only where no word character stands before or after it
  bool lstrip = false;       // takes the whitespace before it
  bool rstrip = false;       // and after it
};

// Tokens to look for at once.
struct AddedTokenSet {
  std::vector<AddedToken> tokens;
  ByteTrie trie;  // of their patterns, indices into `tokens`
};

// A later token of the same pattern replaces the earlier one.
void Insert(AddedToken token, AddedTokenSet* set);

// A part of a text: a token, or what stands between two of them (id -1).
struct TextPart {
  Span span;
  int id;
};

// Calls `part` for the parts of `text`, in order: of the tokens that begin first, the longest.
void ForEachTextPart(const AddedTokenSet& set, std::string_view text,
                     const std::function<void(TextPart)>& part);

}  // namespace fla::tokenizer
