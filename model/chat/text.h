// Python's operations on text, by code points; all texts are valid UTF-8.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fla::chat {

size_t CodePointCount(std::string_view text);
// Where the code point with this index begins; text.size() beyond the end.
size_t ByteOfIndex(std::string_view text, size_t index);
std::vector<std::string> CodePoints(std::string_view text);

struct StripSides {
  bool left = true;
  bool right = true;
};
// Without `characters`: white space, as Python's str.isspace has it.
std::string_view Strip(std::string_view text, const std::optional<std::string>& characters,
                       StripSides sides = {});

// str.split: by white space where there is no separator. `most`: splits, negative: any number;
// these are taken from the right with `from_right`.
std::vector<std::string_view> Split(std::string_view text,
                                    const std::optional<std::string>& separator, int64_t most,
                                    bool from_right = false);
std::vector<std::string_view> SplitLines(std::string_view text);

// In linear time whatever the texts; npos where it is not there.
size_t Find(std::string_view text, std::string_view part, size_t from = 0);
int64_t Count(std::string_view text, std::string_view part);
// `most`: replacements, negative: all.
std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t most);

std::string Lower(std::string_view text);
std::string Upper(std::string_view text);       // one character to one, but for sharp s
std::string Capitalize(std::string_view text);  // the first in upper case, the others in lower
std::string Title(std::string_view text);       // str.title: words are runs of letters
// Jinja's filter: words are parted by white space, - and opening brackets.
std::string TitleWords(std::string_view text);

// Whether all characters are so, of a text with at least one.
bool IsAllDigits(std::string_view text);
bool IsAllLetters(std::string_view text, bool or_digits);
bool IsAllSpace(std::string_view text);
bool IsAllLower(std::string_view text);  // of those that have a case, at least one
bool IsAllUpper(std::string_view text);

// repr() of text and numbers.
std::string Quoted(std::string_view text);
std::string ReprOfFloat(double number);

// The white space of Python's str.isspace.
bool IsSpace(char32_t c);

}  // namespace fla::chat
