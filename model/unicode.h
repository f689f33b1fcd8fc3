// UTF-8 and the few facts of Unicode that tokenizers need.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fla::unicode {

// The code point of `text` at `*position`, which is moved past it. `text` must be valid UTF-8.
char32_t Next(std::string_view text, size_t* position);

// The bytes of the character that `lead` begins, 1 to 4.
size_t CharacterBytes(char lead);

void Append(char32_t code_point, std::string* out);

// Appends `bytes` with every maximal ill-formed part replaced by one U+FFFD (the Unicode
// standard's practice, section 3.9). With `more_may_follow`, bytes at the end that begin a
// character are left alone. Returns the number of bytes used.
size_t AppendValid(std::string_view bytes, bool more_may_follow, std::string* out);

// The same, but with one U+FFFD for each byte that belongs to no character, as sentencepiece does
// for its byte tokens.
size_t AppendValidBytewise(std::string_view bytes, bool more_may_follow, std::string* out);

bool IsWhitespace(char32_t c);  // the property White_Space
bool IsNumber(char32_t c);      // general category N
bool IsMark(char32_t c);        // general category M
// General category P, and the ASCII symbols that C's ispunct() takes.
bool IsPunctuation(char32_t c);
// What \w matches in Rust's regex crate: alphabetic, mark, decimal, connector, join control.
bool IsWord(char32_t c);

// Full lower case of one character: only U+0130 has two.
void AppendLowercase(char32_t c, std::string* out);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// Normalises by the data of Unicode 9: later characters stay as they are. Hugging Face's tokenizers
// have that version built in, and a model has to see the characters it was trained on.
std::string Normalize(std::string_view text, NormalForm form);

}  // namespace fla::unicode
