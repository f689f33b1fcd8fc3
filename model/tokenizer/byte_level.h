// GPT-2's alphabet: each of the 256 bytes as a printable character.
#pragma once

#include <string>
#include <string_view>

namespace fla::tokenizer {

// The character (UTF-8) that stands for a byte.
const std::string& CharacterOfByte(unsigned char byte);

// The bytes that `text`'s characters stand for; false, with `bytes` in no particular state, if
// one of them is not of the alphabet.
bool BytesOfCharacters(std::string_view text, std::string* bytes);

}  // namespace fla::tokenizer
