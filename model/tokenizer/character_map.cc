#include "model/tokenizer/character_map.h"

#include <cstring>
#include <stdexcept>

#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

// The layout of a unit of darts-clone's double array.
bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t Value(uint32_t unit) { return unit & 0x7FFFFFFF; }
uint32_t Label(uint32_t unit) { return unit & 0x800000FF; }
uint32_t Offset(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

}  // namespace

CharacterMap::CharacterMap(std::string_view precompiled) {
  uint32_t bytes = 0;
  const auto fail = [] {
    throw std::runtime_error(
        "precompiled_charsmap: wanted a trie and its strings, got other sizes");
  };
  if (precompiled.size() < sizeof bytes) fail();
  std::memcpy(&bytes, precompiled.data(), sizeof bytes);
  precompiled.remove_prefix(sizeof bytes);
  if (bytes > precompiled.size() || bytes % sizeof(uint32_t) != 0 || bytes == 0) fail();
  units_.resize(bytes / sizeof(uint32_t));
  std::memcpy(units_.data(), precompiled.data(), bytes);
  targets_ = precompiled.substr(bytes);
  targets_ += '\0';
}

CharacterMap::Match CharacterMap::Longest(std::string_view text) const {
  Match match;
  size_t node = Offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (node >= units_.size() || Label(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= Offset(unit);
    if (node >= units_.size()) break;
    if (HasLeaf(unit) && Value(units_[node]) < targets_.size()) {
      match = {i + 1, Value(units_[node])};
    }
  }
  return match;
}

std::string CharacterMap::Apply(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Match match = Longest(text);
    const size_t bytes = match.bytes > 0 ? match.bytes : unicode::CharacterBytes(text[0]);
    if (match.bytes > 0) {
      out += targets_.c_str() + match.target;
    } else {
      out += text.substr(0, bytes);
    }
    text.remove_prefix(bytes);
  }
  return out;
}

}  // namespace fla::tokenizer
