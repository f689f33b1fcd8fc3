#include "model/unicode.h"

#include <utf8proc.h>

#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#include "model/tokenizer.h"
#include "model/tokenizer/unicode_versions.h"

namespace fla {
namespace {

enum class Form { kComplete, kTruncated, kIllFormed };

struct Character {
  Form form;
  size_t bytes;  // of the character, of its beginning, or of the maximal ill-formed part
};

// What stands at the beginning of `bytes` (not empty), by table 3-7 of the Unicode standard.
Character Classify(std::string_view bytes) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Form::kComplete, 1};
  const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                        : lead >= 0xE0 && lead <= 0xEF ? 3
                        : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                       : 0;
  if (length == 0) return {Form::kIllFormed, 1};
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {Form::kTruncated, i};
    uint8_t low = 0x80, high = 0xBF;
    if (i == 1) {
      if (lead == 0xE0) low = 0xA0;   // overlong
      if (lead == 0xED) high = 0x9F;  // surrogates
      if (lead == 0xF0) low = 0x90;   // overlong
      if (lead == 0xF4) high = 0x8F;  // beyond U+10FFFF
    }
    if (byte(i) < low || byte(i) > high) return {Form::kIllFormed, i};
  }
  return {Form::kComplete, length};
}

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

size_t AppendReplacing(std::string_view bytes, bool more_may_follow, bool bytewise,
                       std::string* out) {
  size_t used = 0;
  while (used < bytes.size()) {
    const Character c = Classify(bytes.substr(used));
    if (c.form == Form::kComplete) {
      out->append(bytes, used, c.bytes);
      used += c.bytes;
    } else if (c.form == Form::kTruncated && more_may_follow) {
      break;
    } else {
      out->append(kReplacement);
      used += bytewise ? 1 : c.bytes;
    }
  }
  return used;
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (static_cast<uint8_t>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Character c = Classify(text.substr(i));
    if (c.form != Form::kComplete) return false;
    i += c.bytes;
  }
  return true;
}

namespace unicode {

size_t CharacterBytes(char lead) {
  const auto b = static_cast<uint8_t>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

char32_t Next(std::string_view text, size_t* position) {
  const char* p = text.data() + *position;
  const auto tail = [p](int i) { return static_cast<char32_t>(p[i] & 0x3F); };
  const auto lead = static_cast<uint8_t>(*p);
  if (lead < 0x80) {
    *position += 1;
    return lead;
  }
  if (lead < 0xE0) {
    *position += 2;
    return (lead & 0x1Fu) << 6 | tail(1);
  }
  if (lead < 0xF0) {
    *position += 3;
    return (lead & 0x0Fu) << 12 | tail(1) << 6 | tail(2);
  }
  *position += 4;
  return (lead & 0x07u) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3);
}

void Append(char32_t c, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

size_t AppendValid(std::string_view bytes, bool more_may_follow, std::string* out) {
  return AppendReplacing(bytes, more_may_follow, false, out);
}

size_t AppendValidBytewise(std::string_view bytes, bool more_may_follow, std::string* out) {
  return AppendReplacing(bytes, more_may_follow, true, out);
}

namespace {

utf8proc_category_t Category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool InRange(char32_t c, char32_t first, char32_t last) { return c >= first && c <= last; }

}  // namespace

bool IsWhitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || InRange(c, 9, 13);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || InRange(c, 0x2000, 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsNumber(char32_t c) {
  const auto category = Category(c);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

bool IsMark(char32_t c) {
  const auto category = Category(c);
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

bool IsPunctuation(char32_t c) {
  if (c < 0x80) {
    return InRange(c, 0x21, 0x2F) || InRange(c, 0x3A, 0x40) || InRange(c, 0x5B, 0x60) ||
           InRange(c, 0x7B, 0x7E);
  }
  const auto category = Category(c);
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool IsWord(char32_t c) {
  const auto category = Category(c);
  if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL)
    return true;  // L M Nd Nl
  if (category == UTF8PROC_CATEGORY_PC) return true;
  return InRange(c, 0x24B6, 0x24E9) || InRange(c, 0x1F130, 0x1F149) ||  // Other_Alphabetic
         InRange(c, 0x1F150, 0x1F169) || InRange(c, 0x1F170, 0x1F189) || c == 0x200C || c == 0x200D;
}

void AppendLowercase(char32_t c, std::string* out) {
  if (c == 0x130) {
    out->append("i\xCC\x87");
    return;
  }
  Append(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
}

namespace {

// True if `c` may change under normalisation, alone or with what stands before it. A character
// that is not is a boundary: what follows it can be normalised apart from what precedes it.
bool MayChange(char32_t c, bool below_0300) {
  if (c < 0xA0 || (c < 0x300 && !below_0300)) return false;
  const utf8proc_property_t* p = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  if (p->combining_class != 0 || p->decomp_seqindex != UINT16_MAX) return true;
  if (p->category >= UTF8PROC_CATEGORY_MN && p->category <= UTF8PROC_CATEGORY_ME) return true;
  return InRange(c, 0x1160, 0x11FF);  // Hangul vowels and trailing consonants
}

void NormalizeSegment(std::string_view text, NormalForm form, std::string* out) {
  int options = UTF8PROC_STABLE;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  options |= compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* mapped = nullptr;
  const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                  static_cast<utf8proc_option_t>(options));
  if (bytes < 0) throw std::runtime_error(utf8proc_errmsg(bytes));
  out->append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(bytes));
  std::free(mapped);
}

}  // namespace

std::string Normalize(std::string_view text, NormalForm form) {
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  // Without composition Latin-1's letters and the Hangul syllables come apart as well.
  const bool below_0300 = !compose || form == NormalForm::kNfkc;
  std::string out;
  out.reserve(text.size());
  size_t copied = 0;     // all before is in `out`
  size_t boundary = 0;   // the last one seen
  bool changes = false;  // a character after `boundary` may change
  const auto end_segment = [&](size_t end) {
    if (changes) {
      out.append(text, copied, boundary - copied);
      NormalizeSegment(text.substr(boundary, end - boundary), form, &out);
      copied = end;
      changes = false;
    }
    boundary = end;
  };
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t c = Next(text, &i);
    if (c < 0xA0) {
      end_segment(begin);
      continue;
    }
    const bool inert = AddedAfterUnicode9(c);
    if (!inert && (MayChange(c, below_0300) || (!compose && InRange(c, 0xAC00, 0xD7A3)))) {
      changes = true;
      continue;
    }
    end_segment(begin);
    if (inert) end_segment(i);  // nothing composes with it
  }
  end_segment(text.size());
  out.append(text, copied, text.size() - copied);
  return out;
}

}  // namespace unicode
}  // namespace fla
