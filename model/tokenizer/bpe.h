// Byte pair encoding: the pair of neighbours with the lowest rank is merged, leftmost first, until
// no pair of the text is in the list of merges. After Sennrich et al., arXiv:1508.07909.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/tokenizer/vocabulary.h"
#include "model/tokenizer/word_cache.h"

namespace fla::tokenizer {

struct BpeOptions {
  std::optional<std::string> unk_token;
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;  // a word that is a token is not taken apart
};

// From a pair of ids to the rank of its merge and the id of what it makes.
class MergeTable {
 public:
  struct Merge {
    uint32_t rank;
    int id;
  };
  explicit MergeTable(size_t merges);
  void Insert(int left, int right, Merge merge);
  const Merge* Find(int left, int right) const;  // null where there is none

 private:
  struct Slot {
    uint64_t pair;
    Merge merge;
  };
  size_t Place(uint64_t pair) const;
  std::vector<Slot> slots_;
};

// Memory that encoding needs between calls. One thread at a time.
struct BpeScratch {
  struct Symbol {
    int id;
    int previous, next;  // indices; -1: none, and for next also -2: merged into its left neighbour
  };
  struct Candidate {
    uint32_t rank;
    int left;  // index of the left symbol
    int id;    // of what the merge makes
  };
  WordCache cache;
  std::vector<int> ids;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

struct Bpe {
  BpeOptions options;
  MergeTable merges{0};
  int unk_id = -1;
  // Tokens of the bytes that stand for unknown characters; all -1 without byte_fallback.
  std::array<int, 256> byte_ids;

  // True where the texts come as raw bytes and the vocabulary is in GPT-2's alphabet:
  bool bytes_in = false;
  std::array<int, 256> letter_ids;             // the token of each byte
  std::unordered_map<std::string, int> words;  // raw bytes of the tokens, with ignore_merges

  // Pairs of neighbouring characters that stand in some merge's result, as a filter of hashes.
  // Where a pair is not in it no merge can cross, and the text can be cut. Empty: never cut.
  std::vector<bool> joined;
};

// Merges in the order of their ranks.
struct MergeList {
  std::vector<std::pair<std::string, std::string>> pairs;
};

// Throws std::runtime_error for a merge that names a token which the vocabulary lacks. With
// `byte_level` the texts to encode are raw bytes where the vocabulary allows it: see bytes_in.
Bpe MakeBpe(const Vocabulary& vocabulary, const MergeList& merges, BpeOptions options,
            bool byte_level);

// Appends the tokens of one word. Time: n log n in its length.
void EncodeBpe(const Bpe& bpe, const Vocabulary& vocabulary, std::string_view word,
               BpeScratch* scratch, std::vector<int>* ids);

}  // namespace fla::tokenizer
