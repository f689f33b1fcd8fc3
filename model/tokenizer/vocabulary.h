// The tokens of a model, by id and by text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fla::tokenizer {

inline constexpr int kMaxTokenId = (1 << 24) - 1;
inline constexpr size_t kMaxTokens = size_t{1} << 22;
inline constexpr size_t kMaxVocabularyBytes = size_t{64} << 20;  // all tokens together

class Vocabulary {
 public:
  Vocabulary() = default;
  // Of two tokens with one text, the later is found. Throws std::runtime_error for an id out of [0,
  // kMaxTokenId], for two tokens of one id, and for more than the limits above.
  explicit Vocabulary(std::vector<std::pair<std::string, int>> tokens);
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  // The id of a token, -1 where there is none.
  int Find(std::string_view text) const {
    const auto it = ids_.find(text);
    return it == ids_.end() ? -1 : it->second;
  }
  // The largest id + 1.
  int size() const { return static_cast<int>(texts_.size()); }
  // Empty for an id that no token has.
  const std::string& text(int id) const { return texts_[id]; }
  size_t longest() const { return longest_; }  // in bytes

 private:
  std::vector<std::string> texts_;
  std::unordered_map<std::string_view, int> ids_;  // views into texts_
  size_t longest_ = 0;
};

// "<0x0A>": the token of a byte where a model falls back to bytes.
std::string ByteToken(unsigned char byte);
// The byte of such a token, -1 for another text.
int ByteOfToken(std::string_view token);

}  // namespace fla::tokenizer
