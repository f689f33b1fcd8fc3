#include "model/tokenizer/longest_match.h"

#include <stdexcept>
#include <string>

namespace fla::tokenizer {

LongestMatch MakeLongestMatch(const Vocabulary& vocabulary) {
  LongestMatch model;
  for (int id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.text(id).empty()) model.trie.Insert(vocabulary.text(id), id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (vocabulary.Find(std::string(1, static_cast<char>(byte))) < 0) {
      throw std::runtime_error("vocabulary: wanted a token for each byte, got none for byte " +
                               std::to_string(byte));
    }
  }
  return model;
}

void EncodeLongestMatch(const LongestMatch& model, std::string_view text, std::vector<int>* ids) {
  while (!text.empty()) {
    size_t longest = 0;
    int found = -1;
    model.trie.ForEachPrefix(text, [&](size_t bytes, int id) {
      longest = bytes;
      found = id;
    });
    ids->push_back(found);
    text.remove_prefix(longest);
  }
}

}  // namespace fla::tokenizer
