#include "model/tokenizer/byte_trie.h"

namespace fla::tokenizer {

void ByteTrie::Insert(std::string_view text, int value) {
  int* root = &roots_[static_cast<uint8_t>(text[0])];
  if (*root < 0) {
    *root = static_cast<int>(values_.size());
    values_.push_back(-1);
  }
  int node = *root;
  for (const char c : text.substr(1)) {
    const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [it, is_new] = children_.try_emplace(edge, static_cast<int>(values_.size()));
    if (is_new) values_.push_back(-1);
    node = it->second;
  }
  values_[node] = value;
}

}  // namespace fla::tokenizer
