#include "model/chat/text.h"

#include <string.h>
#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "model/unicode.h"

namespace fla::chat {
namespace {

utf8proc_category_t Category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool IsLetter(char32_t c) {
  const utf8proc_category_t category = Category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsLowerLetter(char32_t c) { return Category(c) == UTF8PROC_CATEGORY_LL; }
bool IsUpperLetter(char32_t c) {
  return Category(c) == UTF8PROC_CATEGORY_LU || Category(c) == UTF8PROC_CATEGORY_LT;
}

void AppendUpper(char32_t c, std::string* out) {
  if (c == U'\u00DF') {
    *out += "SS";
    return;
  }
  unicode::Append(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), out);
}

void AppendTitle(char32_t c, std::string* out) {
  if (c == U'\u00DF') {
    *out += "Ss";
    return;
  }
  unicode::Append(static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))), out);
}

// The character before the byte `end`, whose place goes to `begin`.
char32_t Previous(std::string_view text, size_t end, size_t* begin) {
  *begin = end - 1;
  while ((static_cast<unsigned char>(text[*begin]) & 0xC0) == 0x80) --*begin;
  size_t at = *begin;
  return unicode::Next(text, &at);
}

template <typename Accept>
bool All(std::string_view text, Accept accept) {
  for (size_t i = 0; i < text.size();) {
    if (!accept(unicode::Next(text, &i))) return false;
  }
  return !text.empty();
}

// A capital sigma at the end of a word has a form of its own in lower case.
bool IsFinalSigma(std::string_view text, size_t begin, size_t end) {
  if (begin == 0) return false;
  size_t ignored = 0;
  if (!IsLetter(Previous(text, begin, &ignored))) return false;
  return end == text.size() || !IsLetter(unicode::Next(text, &end));
}

}  // namespace

bool IsSpace(char32_t c) { return (c >= 0x1C && c <= 0x1F) || unicode::IsWhitespace(c); }

size_t CodePointCount(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

size_t ByteOfIndex(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += unicode::CharacterBytes(text[at]);
  return std::min(at, text.size());
}

std::vector<std::string> CodePoints(std::string_view text) {
  std::vector<std::string> all;
  for (size_t i = 0; i < text.size();) {
    const size_t bytes = unicode::CharacterBytes(text[i]);
    all.emplace_back(text.substr(i, bytes));
    i += bytes;
  }
  return all;
}

std::string_view Strip(std::string_view text, const std::optional<std::string>& characters,
                       StripSides sides) {
  std::u32string set;
  if (characters) {
    for (size_t i = 0; i < characters->size();) set += unicode::Next(*characters, &i);
    std::sort(set.begin(), set.end());
  }
  const auto goes = [&](char32_t c) {
    return characters ? std::binary_search(set.begin(), set.end(), c) : IsSpace(c);
  };
  size_t begin = 0, end = text.size();
  while (sides.left && begin < end) {
    size_t next = begin;
    if (!goes(unicode::Next(text, &next))) break;
    begin = next;
  }
  while (sides.right && end > begin) {
    size_t previous = 0;
    if (!goes(Previous(text, end, &previous))) break;
    end = previous;
  }
  return text.substr(begin, end - begin);
}

size_t Find(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (part.empty()) return from;
  // glibc's memmem is linear; std::string_view::find is not.
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found == nullptr ? std::string_view::npos
                          : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

namespace {

std::vector<std::string_view> SplitByText(std::string_view text, std::string_view separator,
                                          int64_t most) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t end = Find(text, separator, begin);
    if (end == std::string_view::npos) break;
    parts.push_back(text.substr(begin, end - begin));
    begin = end + separator.size();
  }
  parts.push_back(text.substr(begin));
  return parts;
}

std::vector<std::string_view> SplitByTextFromRight(std::string_view text,
                                                   std::string_view separator, int64_t most) {
  std::vector<std::string_view> parts;
  size_t end = text.size();
  while (static_cast<int64_t>(parts.size()) < most) {
    const size_t at = text.substr(0, end).rfind(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(at + separator.size(), end - at - separator.size()));
    end = at;
  }
  parts.push_back(text.substr(0, end));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> SplitBySpace(std::string_view text, int64_t most) {
  std::vector<std::string_view> parts;
  text = Strip(text, std::nullopt, {true, false});
  while (!text.empty()) {
    if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
      parts.push_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      size_t next = end;
      if (IsSpace(unicode::Next(text, &next))) break;
      end = next;
    }
    parts.push_back(text.substr(0, end));
    text = Strip(text.substr(end), std::nullopt, {true, false});
  }
  return parts;
}

}  // namespace

std::vector<std::string_view> Split(std::string_view text,
                                    const std::optional<std::string>& separator, int64_t most,
                                    bool from_right) {
  if (!separator) return SplitBySpace(text, most);
  return from_right && most >= 0 ? SplitByTextFromRight(text, *separator, most)
                                 : SplitByText(text, *separator, most);
}

std::vector<std::string_view> SplitLines(std::string_view text) {
  const auto ends_line = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
  };
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = i;
    if (!ends_line(unicode::Next(text, &i))) continue;
    if (text[end] == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(begin, end - begin));
    begin = i;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

int64_t Count(std::string_view text, std::string_view part) {
  if (part.empty()) return static_cast<int64_t>(CodePointCount(text)) + 1;
  int64_t count = 0;
  for (size_t at = Find(text, part); at != std::string_view::npos;
       at = Find(text, part, at + part.size())) {
    ++count;
  }
  return count;
}

std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t most) {
  std::string out;
  size_t done = 0;
  if (from.empty()) {  // between all characters
    while (most != 0) {
      out += to;
      if (most > 0) --most;
      if (done == text.size()) return out;
      const size_t bytes = unicode::CharacterBytes(text[done]);
      out += text.substr(done, bytes);
      done += bytes;
    }
    return out.append(text.substr(done));
  }
  for (; most != 0; most -= most > 0 ? 1 : 0) {
    const size_t at = Find(text, from, done);
    if (at == std::string_view::npos) break;
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
  }
  return out.append(text.substr(done));
}

std::string Lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = unicode::Next(text, &i);
    if (c == U'\u03A3' && IsFinalSigma(text, begin, i)) {
      unicode::Append(U'\u03C2', &out);
    } else {
      unicode::AppendLowercase(c, &out);
    }
  }
  return out;
}

std::string Upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) AppendUpper(unicode::Next(text, &i), &out);
  return out;
}

std::string Capitalize(std::string_view text) {
  if (text.empty()) return "";
  std::string out;
  size_t i = 0;
  AppendTitle(unicode::Next(text, &i), &out);
  return out + Lower(text.substr(i));
}

std::string Title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = unicode::Next(text, &i);
    if (in_word) {
      unicode::AppendLowercase(c, &out);
    } else {
      AppendTitle(c, &out);
    }
    in_word = IsLetter(c);
  }
  return out;
}

std::string TitleWords(std::string_view text) {
  std::string out;
  size_t begin = 0;
  const auto add = [&](size_t end) {
    if (begin == end) return;
    size_t i = begin;
    AppendUpper(unicode::Next(text, &i), &out);
    out += Lower(text.substr(i, end - i));
  };
  for (size_t i = 0; i < text.size();) {
    const size_t here = i;
    const char32_t c = unicode::Next(text, &i);
    if (!IsSpace(c) && !(c < 128 && std::string_view("-({[<").find(static_cast<char>(c)) !=
                                        std::string_view::npos)) {
      continue;
    }
    add(here);
    out += text.substr(here, i - here);
    begin = i;
  }
  add(text.size());
  return out;
}

bool IsAllDigits(std::string_view text) {
  return All(text, [](char32_t c) { return Category(c) == UTF8PROC_CATEGORY_ND; });
}

bool IsAllLetters(std::string_view text, bool or_digits) {
  return All(text, [&](char32_t c) { return IsLetter(c) || (or_digits && unicode::IsNumber(c)); });
}

bool IsAllSpace(std::string_view text) { return All(text, IsSpace); }

bool IsAllLower(std::string_view text) {
  bool any = false;
  return All(text,
             [&](char32_t c) {
               any = any || IsLowerLetter(c);
               return !IsUpperLetter(c);
             }) &&
         any;
}

bool IsAllUpper(std::string_view text) {
  bool any = false;
  return All(text,
             [&](char32_t c) {
               any = any || IsUpperLetter(c);
               return !IsLowerLetter(c);
             }) &&
         any;
}

std::string Quoted(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = unicode::Next(text, &i);
    const utf8proc_category_t category = Category(c);
    const bool printable =
        c == ' ' || !(category == UTF8PROC_CATEGORY_CN || category >= UTF8PROC_CATEGORY_ZS);
    char code[16];
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += {'\\', static_cast<char>(c)};
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += {'\\', c == '\n' ? 'n' : c == '\r' ? 'r' : 't'};
    } else if (printable) {
      out += text.substr(begin, i - begin);
    } else {
      std::snprintf(code, sizeof(code),
                    c < 0x100     ? "\\x%02x"
                    : c < 0x10000 ? "\\u%04x"
                                  : "\\U%08x",
                    static_cast<unsigned>(c));
      out += code;
    }
  }
  return out += quote;
}

std::string ReprOfFloat(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  // The shortest digits that give the number again, in Python's form: 1e-05, 1e+16, 100000.0.
  char digits[64];
  const auto end =
      std::to_chars(digits, digits + sizeof(digits), number, std::chars_format::scientific).ptr;
  std::string text(digits, end);
  const int exponent = std::stoi(text.substr(text.find('e') + 1));
  if (exponent < -4 || exponent >= 16) return text;
  char fixed[64];
  const auto last =
      std::to_chars(fixed, fixed + sizeof(fixed), number, std::chars_format::fixed).ptr;
  text.assign(fixed, last);
  return text.find('.') == std::string::npos ? text + ".0" : text;
}

}  // namespace fla::chat
