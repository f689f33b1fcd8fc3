// sentencepiece's compiled normalisation: a map from strings of characters to others.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fla::tokenizer {

// Thread safety: const methods may be called from any number of threads.
class CharacterMap {
 public:
  // `precompiled` as in NormalizerSpec.precompiled_charsmap: the size of a double-array trie
  // (Darts), the trie, and the strings it points to. Throws std::runtime_error for other sizes.
  explicit CharacterMap(std::string_view precompiled);

  // Replaces what the map knows, at each place its longest entry.
  std::string Apply(std::string_view text) const;

 private:
  struct Match {
    size_t bytes = 0;  // 0: none
    uint32_t target = 0;
  };
  Match Longest(std::string_view text) const;

  std::vector<uint32_t> units_;
  std::string targets_;  // each ends with NUL
};

}  // namespace fla::tokenizer
