#include "model/tokenizer/vocabulary.h"

#include <algorithm>
#include <stdexcept>

namespace fla::tokenizer {

Vocabulary::Vocabulary(std::vector<std::pair<std::string, int>> tokens) {
  if (tokens.size() > kMaxTokens) {
    throw std::runtime_error("vocabulary: wanted at most " + std::to_string(kMaxTokens) +
                             " tokens, got " + std::to_string(tokens.size()));
  }
  int largest = -1;
  size_t bytes = 0;
  for (const auto& [text, id] : tokens) {
    if (id < 0 || id > kMaxTokenId) {
      throw std::runtime_error("vocabulary: id of '" + text + "': wanted 0 to " +
                               std::to_string(kMaxTokenId) + ", got " + std::to_string(id));
    }
    largest = std::max(largest, id);
    longest_ = std::max(longest_, text.size());
    bytes += text.size();
  }
  if (bytes > kMaxVocabularyBytes) {
    throw std::runtime_error("vocabulary: wanted at most " + std::to_string(kMaxVocabularyBytes) +
                             " bytes of tokens, got " + std::to_string(bytes));
  }
  texts_.resize(largest + 1);
  ids_.reserve(tokens.size());
  std::vector<bool> taken(largest + 1);
  for (auto& [text, id] : tokens) {
    if (taken[id]) {
      throw std::runtime_error("vocabulary: id " + std::to_string(id) +
                               ": wanted one token, got '" + texts_[id] + "' and '" + text + "'");
    }
    taken[id] = true;
    texts_[id] = std::move(text);
    ids_[texts_[id]] = id;
  }
}

std::string ByteToken(unsigned char byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
}

int ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

}  // namespace fla::tokenizer
