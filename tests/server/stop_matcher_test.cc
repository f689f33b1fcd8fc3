#include "server/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace fla {
namespace {

TEST(StopMatcherTest, PassesTextThroughWithoutStops) {
  const std::vector<std::string> stops;
  StopMatcher matcher(stops, false);
  EXPECT_EQ(matcher.Append("hello "), "hello ");
  EXPECT_EQ(matcher.Append(""), "");
  EXPECT_EQ(matcher.Append("world"), "world");
  EXPECT_EQ(matcher.Finish(), "");
  EXPECT_EQ(matcher.matched(), nullptr);
}

TEST(StopMatcherTest, HoldsBackAPossibleStartAndLetsItGo) {
  const std::vector<std::string> stops = {"\n\nUser:"};
  StopMatcher matcher(stops, false);
  EXPECT_EQ(matcher.Append("Hi.\n"), "Hi.");
  EXPECT_EQ(matcher.Append("\nUs"), "");
  EXPECT_EQ(matcher.Append("ually"), "\n\nUsually");
  EXPECT_EQ(matcher.matched(), nullptr);
}

TEST(StopMatcherTest, FindsAStopAcrossPieces) {
  const std::vector<std::string> stops = {"END"};
  StopMatcher matcher(stops, false);
  EXPECT_EQ(matcher.Append("abcE"), "abc");
  EXPECT_EQ(matcher.Append("N"), "");
  EXPECT_EQ(matcher.Append("D and more"), "");
  ASSERT_NE(matcher.matched(), nullptr);
  EXPECT_EQ(*matcher.matched(), "END");
  EXPECT_EQ(matcher.Append("x"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, IncludesTheStopIfAsked) {
  const std::vector<std::string> stops = {"END"};
  StopMatcher matcher(stops, true);
  EXPECT_EQ(matcher.Append("abcE"), "abc");
  EXPECT_EQ(matcher.Append("NDE"), "END");
}

TEST(StopMatcherTest, WhatIsHeldAtTheEndIsText) {
  const std::vector<std::string> stops = {"END"};
  StopMatcher matcher(stops, false);
  EXPECT_EQ(matcher.Append("abcEN"), "abc");
  EXPECT_EQ(matcher.Finish(), "EN");
}

TEST(StopMatcherTest, TheFirstThatIsCompleteWins) {
  const std::vector<std::string> stops = {"abcd", "bc"};
  StopMatcher matcher(stops, false);
  EXPECT_EQ(matcher.Append("xabcd"), "xa");
  EXPECT_EQ(*matcher.matched(), "bc");
}

TEST(StopMatcherTest, OfTwoThatEndTogetherTheLongerWins) {
  const std::vector<std::string> stops = {"c", "abc", "bc"};
  StopMatcher matcher(stops, false);
  EXPECT_EQ(matcher.Append("xabc"), "x");
  EXPECT_EQ(*matcher.matched(), "abc");
}

TEST(StopMatcherTest, WhereItDoesNotApplyAStopIsText) {
  const std::vector<std::string> stops = {"aa", "xbcy"};
  StopMatcher matcher(stops, false);
  EXPECT_EQ(matcher.Append("aa", false), "a");  // the second may begin another
  EXPECT_EQ(matcher.Append("xbc", false), "a");
  EXPECT_EQ(matcher.Append("y", true), "");
  EXPECT_EQ(*matcher.matched(), "xbcy");
}

TEST(StopMatcherTest, AStopThatWasNotAppliedIsNotFoundLater) {
  const std::vector<std::string> stops = {"abcd", "bc"};
  StopMatcher matcher(stops, false);
  EXPECT_EQ(matcher.Append("abc", false), "");  // may begin "abcd"; the "bc" in it does not count
  EXPECT_EQ(matcher.Append("z", true), "abcz");
  EXPECT_EQ(matcher.matched(), nullptr);
}

// What the class comment says, letter by letter over the whole text.
std::string ExpectedText(const std::string& text, const std::vector<std::string>& stops,
                         bool include, std::string* matched) {
  for (size_t end = 1; end <= text.size(); ++end) {
    const std::string head = text.substr(0, end);
    for (const std::string& stop : stops) {
      if (head.ends_with(stop) && stop.size() > matched->size()) *matched = stop;
    }
    if (!matched->empty()) return head.substr(0, include ? end : end - matched->size());
  }
  return text;
}

TEST(StopMatcherTest, TheCutIntoPiecesDoesNotMatter) {
  std::mt19937 random(7);
  const auto draw = [&](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  const auto word = [&](int size) {
    std::string letters;
    for (int i = 0; i < size; ++i) letters += static_cast<char>('a' + draw(0, 1));
    return letters;
  };
  int hits = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::vector<std::string> stops(draw(0, 3));
    for (std::string& stop : stops) stop = word(draw(1, 7));
    const std::string text = word(draw(0, 40));
    const bool include = draw(0, 1) == 1;
    StopMatcher matcher(stops, include);
    std::string output;
    for (size_t begin = 0; begin < text.size();) {
      const size_t size = static_cast<size_t>(draw(0, 5));
      output += matcher.Append(text.substr(begin, size));
      begin += size;
    }
    output += matcher.Finish();
    std::string matched;
    ASSERT_EQ(output, ExpectedText(text, stops, include, &matched)) << text;
    ASSERT_EQ(matcher.matched() != nullptr, !matched.empty());
    if (!matched.empty()) {
      ASSERT_EQ(*matcher.matched(), matched);
      ++hits;
    }
  }
  EXPECT_GT(hits, 500);
}

}  // namespace
}  // namespace fla
