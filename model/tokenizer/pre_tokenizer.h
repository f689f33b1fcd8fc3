// How a tokenizer.json splits a text into words before the model sees them.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "model/tokenizer/normalizer.h"

namespace fla::tokenizer {

enum class SplitBehavior {
  kRemoved,             // matches go
  kIsolated,            // each match is a word
  kMergedWithPrevious,  // a match ends the word before it
  kMergedWithNext,      // a match begins the word after it
  kContiguous,          // neighbouring matches are one word
};

enum class Prepend { kNever, kFirst, kAlways };  // kFirst: only where the whole text begins

struct SplitAtPattern {
  Pattern pattern;
  SplitBehavior behavior;
  bool invert;  // what does not match counts as the match
};
struct ByteLevelWords {
  bool prepend_space;
  bool map_bytes;  // write the bytes in GPT-2's alphabet
};
struct MetaspaceWords {
  std::string replacement;  // of the space
  Prepend prepend;
  bool split;  // before each replacement
};
struct SplitAtWhitespace {};
struct SplitDigits {
  bool individual;
};
struct SplitPunctuation {
  SplitBehavior behavior;
};

using PreTokenizer = std::variant<SplitAtPattern, ByteLevelWords, MetaspaceWords, SplitAtWhitespace,
                                  SplitDigits, SplitPunctuation>;

// The patterns of GPT-2's ByteLevel and of the pre-tokenizer "Whitespace".
SplitAtPattern Gpt2Words();
SplitAtPattern WordsAndSymbols();

// Calls `word` for each of the words of `text`, in order, none of them empty. `at_start` says that
// `text` begins where the whole text does.
void PreTokenize(std::span<const PreTokenizer> steps, std::string_view text, bool at_start,
                 const std::function<void(std::string_view)>& word);

}  // namespace fla::tokenizer
