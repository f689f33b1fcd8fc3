// The unigram language model: of all ways to write a text in tokens, that with the highest sum of
// scores (Viterbi). After Kudo, arXiv:1804.10959.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "model/tokenizer/byte_trie.h"
#include "model/tokenizer/vocabulary.h"
#include "model/tokenizer/word_cache.h"

namespace fla::tokenizer {

struct Unigram {
  std::vector<double> scores;  // by id
  ByteTrie trie;               // of the tokens, their ids
  double unk_score = 0;
  int unk_id = -1;                // -1: an unknown character is an error
  std::array<int, 256> byte_ids;  // tokens that stand for unknown characters' bytes, or all -1
};

// Memory that encoding needs between calls. One thread at a time.
struct UnigramScratch {
  struct Node {  // the best way to write the text up to here
    double score;
    size_t begin;  // of its last token
    int id;        // of that; -1: not reached
  };
  WordCache cache;
  std::vector<Node> nodes;
  std::vector<int> reversed;
};

// `scores` by id. An unk_id of -1 means none.
Unigram MakeUnigram(const Vocabulary& vocabulary, std::vector<double> scores, int unk_id,
                    bool byte_fallback);

// Appends the tokens of one word. Throws std::runtime_error for a character that has no token
// where the model has no unknown token.
void EncodeUnigram(const Unigram& unigram, const Vocabulary& vocabulary, std::string_view word,
                   UnigramScratch* scratch, std::vector<int>* ids);

}  // namespace fla::tokenizer
