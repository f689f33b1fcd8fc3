#include "model/tokenizer/byte_level.h"

#include <array>

#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 512> bytes;  // by code point, -1: not of the alphabet

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
      const char32_t c = printable ? static_cast<char32_t>(byte) : next++;
      unicode::Append(c, &characters[byte]);
      bytes[c] = byte;
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

const std::string& CharacterOfByte(unsigned char byte) { return TheAlphabet().characters[byte]; }

bool BytesOfCharacters(std::string_view text, std::string* bytes) {
  const Alphabet& alphabet = TheAlphabet();
  bytes->clear();
  for (size_t i = 0; i < text.size();) {
    const char32_t c = unicode::Next(text, &i);
    if (c >= alphabet.bytes.size() || alphabet.bytes[c] < 0) return false;
    bytes->push_back(static_cast<char>(alphabet.bytes[c]));
  }
  return true;
}

}  // namespace fla::tokenizer
