#include "model/tokenizer/sentencepiece_charsmap.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace fla::tokenizer {
namespace {

// The library's own maps have 64 thousand units; at most 255 steps are looked at from each.
constexpr size_t kMaxUnits = size_t{1} << 20;
constexpr size_t kMaxReplacementBytes = 1024;  // the longest of Unicode's NFKC has 33
// Normalizer::kMaxTrieResultsSize: the library has room for so many keys that begin one another,
// and does not look whether a trie has more.
constexpr int kMaxNestedKeys = 32;
constexpr int kMaxKeyBytes = 1024;

[[noreturn]] void Fail(const std::string& wanted_and_got) {
  throw std::runtime_error("precompiled_charsmap: " + wanted_and_got);
}

// The layout of a unit of darts-clone's double array.
bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t Value(uint32_t unit) { return unit & 0x7FFFFFFF; }
uint32_t Label(uint32_t unit) { return unit & 0x800000FF; }  // the high bit: of no byte
uint32_t Offset(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

// Every walk from the root, units that several keys share looked at once.
class TrieWalk {
 public:
  // Values have to be below `target_bytes`.
  TrieWalk(std::vector<uint32_t> units, size_t target_bytes)
      : units_(std::move(units)), target_bytes_(target_bytes), nested_(units_.size(), kUnseen) {}

  void Check() {
    const int nested = Below(Base(0), 0);
    if (nested > kMaxNestedKeys) {
      Fail("wanted at most " + std::to_string(kMaxNestedKeys) +
           " keys that begin one another, got " + std::to_string(nested));
    }
  }

 private:
  static constexpr int kUnseen = -1, kOpen = -2;

  // Where the children of the unit at `index` begin: child b is at base ^ b.
  size_t Base(size_t index) const {
    const size_t base = index ^ Offset(units_[index]);
    if ((base | 0xFF) >= units_.size()) {
      Fail("wanted a trie that leads into its " + std::to_string(units_.size()) +
           " units, got unit " + std::to_string(base));
    }
    return base;
  }

  // The most keys on a walk from the unit at `index`, that of itself among them.
  int Nested(size_t index, int depth) {
    if (nested_[index] == kOpen) Fail("wanted a trie, got one with a cycle");
    if (nested_[index] != kUnseen) return nested_[index];
    if (depth > kMaxKeyBytes) {
      Fail("wanted keys of at most " + std::to_string(kMaxKeyBytes) + " bytes, got a longer one");
    }
    nested_[index] = kOpen;
    const size_t base = Base(index);
    int keys = 0;
    if (HasLeaf(units_[index])) {
      keys = 1;
      if (Value(units_[base]) >= target_bytes_) {
        Fail("wanted a string within " + std::to_string(target_bytes_) + " bytes, got one at " +
             std::to_string(Value(units_[base])));
      }
    }
    return nested_[index] = keys + Below(base, depth);
  }

  int Below(size_t base, int depth) {
    int most = 0;
    // Byte 0 too: a text may have it.
    for (uint32_t byte = 0; byte < 256; ++byte) {
      if (Label(units_[base ^ byte]) == byte) most = std::max(most, Nested(base ^ byte, depth + 1));
    }
    return most;
  }

  const std::vector<uint32_t> units_;
  const size_t target_bytes_;
  std::vector<int> nested_;  // by unit; kOpen: on the walk that is under way
};

}  // namespace

size_t CheckCharsmap(std::string_view precompiled) {
  uint32_t bytes = 0;
  if (precompiled.size() >= sizeof bytes) std::memcpy(&bytes, precompiled.data(), sizeof bytes);
  const size_t count = bytes / sizeof(uint32_t);
  // The library reads the last unit, too.
  if (count == 0 || bytes % sizeof(uint32_t) != 0 || count > kMaxUnits ||
      bytes >= precompiled.size() - sizeof bytes) {
    Fail("wanted a trie of 1 to " + std::to_string(kMaxUnits) + " units and its strings, got " +
         std::to_string(bytes) + " of " + std::to_string(precompiled.size()) + " bytes");
  }
  std::vector<uint32_t> units(count);
  std::memcpy(units.data(), precompiled.data() + sizeof bytes, bytes);
  const std::string_view targets = precompiled.substr(sizeof bytes + bytes);
  if (targets.back() != '\0' || !IsValidUtf8(targets)) {
    Fail("wanted strings of UTF-8 that end with NUL, got others");
  }
  size_t longest = 0;
  for (size_t begin = 0; begin < targets.size();) {
    const size_t end = targets.find('\0', begin);
    longest = std::max(longest, end - begin);
    begin = end + 1;
  }
  if (longest > kMaxReplacementBytes) {
    Fail("wanted strings of at most " + std::to_string(kMaxReplacementBytes) + " bytes, got " +
         std::to_string(longest));
  }
  TrieWalk(std::move(units), targets.size()).Check();
  return longest;
}

}  // namespace fla::tokenizer
