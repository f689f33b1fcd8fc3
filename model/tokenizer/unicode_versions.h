// What changed between the Unicode versions of the libraries at hand and of those that trained the
// models.
#pragma once

#include <string>
#include <string_view>

namespace fla::unicode {

// True if `c` came after Unicode 9 with a combining class, a decomposition or a part in a
// composition.
bool AddedAfterUnicode9(char32_t c);

// True if `text` (valid UTF-8) holds a character that came after Unicode 14.
bool HasCharactersAfterUnicode14(std::string_view text);

// The characters that came between Unicode 14 and 16 in the general category `property` ("L",
// "Lu", ...), as the inside of a PCRE2 character class; empty where there are none.
std::string AddedAfterUnicode14(std::string_view property);

}  // namespace fla::unicode
