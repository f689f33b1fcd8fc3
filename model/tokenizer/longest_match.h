// RWKV's model: at each place the longest token that the text begins with.
#pragma once

#include <string_view>
#include <vector>

#include "model/tokenizer/byte_trie.h"
#include "model/tokenizer/vocabulary.h"

namespace fla::tokenizer {

struct LongestMatch {
  ByteTrie trie;  // of all tokens, their ids; every single byte is one
};

// Throws std::runtime_error if a byte has no token.
LongestMatch MakeLongestMatch(const Vocabulary& vocabulary);

void EncodeLongestMatch(const LongestMatch& model, std::string_view text, std::vector<int>* ids);

}  // namespace fla::tokenizer
