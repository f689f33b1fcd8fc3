// The tokens of words met lately.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace fla::tokenizer {

// A table of constant size; a word takes the place of an older one that falls on it.
//
// Thread safety: one thread at a time.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 22;  // of a word that is kept
  static constexpr size_t kMaxTokens = 10;

  // Appends the tokens of `word` and returns true if they are known.
  bool Find(std::string_view word, std::vector<int>* ids) const {
    if (word.size() > kMaxBytes || word.empty()) return false;
    const Entry& entry = (*entries_)[Place(word)];
    if (entry.bytes != word.size() || std::memcmp(entry.word, word.data(), word.size()) != 0) {
      return false;
    }
    ids->insert(ids->end(), entry.ids, entry.ids + entry.tokens);
    return true;
  }

  void Keep(std::string_view word, std::span<const int> ids) {
    if (word.size() > kMaxBytes || word.empty() || ids.size() > kMaxTokens) return;
    Entry& entry = (*entries_)[Place(word)];
    entry.bytes = static_cast<uint8_t>(word.size());
    entry.tokens = static_cast<uint8_t>(ids.size());
    std::memcpy(entry.word, word.data(), word.size());
    std::copy(ids.begin(), ids.end(), entry.ids);
  }

 private:
  struct Entry {    // one cache line
    uint8_t bytes;  // 0: free
    uint8_t tokens;
    char word[kMaxBytes];
    int32_t ids[kMaxTokens];
  };
  static_assert(sizeof(Entry) == 64);
  static constexpr size_t kEntries = size_t{1} << 15;

  static size_t Place(std::string_view word) {
    return std::hash<std::string_view>()(word) % kEntries;
  }

  std::unique_ptr<std::array<Entry, kEntries>> entries_ =
      std::make_unique<std::array<Entry, kEntries>>();
};

}  // namespace fla::tokenizer
