// sentencepiece's compiled normalisation: a map from strings of characters to others.
#pragma once

#include <cstddef>
#include <string_view>

namespace fla::tokenizer {

// Checks a NormalizerSpec.precompiled_charsmap, the size of a double-array trie (Darts), the trie
// and the strings it points to: the library walks the trie without looking at its bounds and copies
// from the strings up to a NUL. After this no text leads it outside. Returns the bytes of the
// longest of the strings. Throws std::runtime_error "precompiled_charsmap: wanted, got".
size_t CheckCharsmap(std::string_view precompiled);

}  // namespace fla::tokenizer
