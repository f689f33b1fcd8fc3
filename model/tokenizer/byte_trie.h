// Which strings of a set begin at a place of a text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fla::tokenizer {

class ByteTrie {
 public:
  ByteTrie() { roots_.fill(-1); }

  // A later value of the same string replaces the earlier one. `text` must not be empty.
  void Insert(std::string_view text, int value);

  // Calls found(bytes, value) for every string of the set that `text` begins with, shortest first.
  template <typename Found>
  void ForEachPrefix(std::string_view text, const Found& found) const {
    if (text.empty()) return;
    int node = roots_[static_cast<uint8_t>(text[0])];
    for (size_t bytes = 1; node >= 0; ++bytes) {
      if (values_[node] >= 0) found(bytes, values_[node]);
      if (bytes == text.size()) return;
      node = Child(node, static_cast<uint8_t>(text[bytes]));
    }
  }

 private:
  int Child(int node, uint8_t byte) const {
    const auto it = children_.find(static_cast<uint64_t>(node) << 8 | byte);
    return it == children_.end() ? -1 : it->second;
  }

  std::array<int, 256> roots_;
  std::vector<int> values_;  // by node, -1: no string ends here
  std::unordered_map<uint64_t, int> children_;
};

}  // namespace fla::tokenizer
