#include "model/unicode.h"

#include <gtest/gtest.h>

#include "model/tokenizer.h"
#include "model/tokenizer/regex.h"

namespace fla {
namespace {

using unicode::NormalForm;
using unicode::Normalize;

TEST(Utf8, AcceptsWhatIsWellFormed) {
  for (const char* text : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF",
                           "\xEE\x80\x80", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(IsValidUtf8(text)) << text;
  }
  EXPECT_TRUE(IsValidUtf8(std::string_view("\0", 1)));
}

TEST(Utf8, RefusesWhatIsNot) {
  for (const char* text : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2z", "\xE0\x9F\xBF",
                           "\xE4\xBD", "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF",
                           "\xF0\x9F\x99", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    EXPECT_FALSE(IsValidUtf8(text)) << text;
    EXPECT_FALSE(IsValidUtf8(std::string("ok ") + text)) << text;
  }
}

TEST(Utf8, AppendAndNextAreInverse) {
  for (char32_t c = 0; c <= 0x10FFFF; c += 37) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    unicode::Append(c, &text);
    ASSERT_TRUE(IsValidUtf8(text)) << text;
    ASSERT_EQ(unicode::CharacterBytes(text[0]), text.size());
    size_t at = 0;
    ASSERT_TRUE(unicode::Next(text, &at) == c) << text;
    ASSERT_EQ(at, text.size());
  }
}

TEST(Utf8, ReplacesIllFormedParts) {
  const auto replaced = [](std::string_view bytes, bool more, size_t used_wanted) {
    std::string out;
    EXPECT_EQ(unicode::AppendValid(bytes, more, &out), used_wanted) << bytes;
    return out;
  };
  const std::string r = "\xEF\xBF\xBD";
  EXPECT_EQ(replaced("a\xE4\xBD", false, 3), "a" + r);  // one for the maximal part
  EXPECT_EQ(replaced("a\xE4\xBD", true, 1), "a");
  EXPECT_EQ(replaced("\xE4\xBDz", true, 3), r + "z");
  EXPECT_EQ(replaced("\xED\xA0\x80", false, 3), r + r + r);
  EXPECT_EQ(replaced("\xF0\x9F\x99\xF0\x9F\x99\x82", true, 7), r + "\xF0\x9F\x99\x82");
  std::string out;
  EXPECT_EQ(unicode::AppendValidBytewise("a\xE4\xBDz\xE4", true, &out), 4u);
  EXPECT_EQ(out, "a" + r + r + "z");
}

TEST(NormalForms, FollowUnicode9) {
  EXPECT_EQ(Normalize("e\u0301", NormalForm::kNfc), "\u00e9");
  EXPECT_EQ(Normalize("\u00e9", NormalForm::kNfd), "e\u0301");
  EXPECT_EQ(Normalize("\ufb01 \u00bd", NormalForm::kNfkc), "fi 1\u20442");
  EXPECT_EQ(Normalize("\u1100\u1161\u11a8", NormalForm::kNfc), "\uac01");
  EXPECT_EQ(Normalize("\uac01", NormalForm::kNfkd), "\u1100\u1161\u11a8");
  EXPECT_EQ(Normalize("x\u0301\u0323y\u0323\u0301", NormalForm::kNfc), "x\u0323\u0301\u1ef5\u0301");
  EXPECT_EQ(Normalize("\u0301e\u0301", NormalForm::kNfc), "\u0301\u00e9");
  EXPECT_EQ(Normalize("x\u0307\u093c", NormalForm::kNfc), "\u1e8b\u093c");
  EXPECT_EQ(Normalize("\u0958", NormalForm::kNfc), "\u0915\u093c");  // never composed
  EXPECT_EQ(Normalize("\u32ff", NormalForm::kNfkc), "\u32ff");       // of Unicode 12.1
  EXPECT_EQ(Normalize("\U00011938", NormalForm::kNfd), "\U00011938");
  EXPECT_EQ(Normalize("", NormalForm::kNfc), "");
}

std::string Matches(std::string_view pattern, std::string_view text) {
  std::string out;
  tokenizer::Regex(pattern).ForEachMatch(text, [&](tokenizer::Span span) {
    out += "<" + std::string(text.substr(span.begin, span.end - span.begin)) + ">";
  });
  return out;
}

TEST(Regex, FollowsOniguruma) {
  EXPECT_EQ(Matches(R"(\s+)", "a\u180e\u2003b"), "<\u2003>");
  EXPECT_EQ(Matches(R"(\h+)", "xyzAF09g "), "<AF09>");
  EXPECT_EQ(Matches(R"(\w+)", "e\u0301\u0969 \u00bd"), "<e\u0301\u0969>");
  EXPECT_EQ(Matches(R"([a-z&&[^aeiou]]+)", "hello"), "<h><ll>");
  EXPECT_EQ(Matches(R"([^a-z&&[^aeiou]]+)", "heLLo"), "<eLLo>");
  EXPECT_EQ(Matches(R"(\d{2}+)", "12345"), "<1234>");
  EXPECT_EQ(Matches(R"(\d{2}?)", "12"), "<12>");
  EXPECT_EQ(Matches(R"(x{,2}y)", "xxxy"), "<xxy>");
  EXPECT_EQ(Matches(R"((?m:a.b))", "a\nb"), "<a\nb>");
  EXPECT_EQ(Matches(R"(^a$)", "a\nab\na"), "<a><a>");
  EXPECT_EQ(Matches(R"([\S\n]+)", "a \nb"), "<a><\nb>");
  EXPECT_EQ(Matches(R"(\p{^L})", "a1"), "<1>");
  EXPECT_EQ(Matches(R"(\p{L}+)", "\U00031350\u1c89 \U0001e4d0"), "<\U00031350\u1c89><\U0001e4d0>");
  EXPECT_EQ(Matches(R"(b*)", "abc"), "<><b><>");
}

TEST(Regex, NamesWhatIsWrong) {
  for (const char* pattern :
       {"(", "[a", "a)", R"(\p{Nonsense})", R"(\Q)", R"(\p{L)", "(?u:a)", R"([\b\1])"}) {
    try {
      tokenizer::Regex{pattern};
      ADD_FAILURE() << pattern;
    } catch (const std::runtime_error& e) {
      EXPECT_NE(std::string(e.what()).find(pattern), std::string::npos) << e.what();
    }
  }
}

}  // namespace
}  // namespace fla
