#include "server/json_lines.h"

#include <gtest/gtest.h>

namespace fla {
namespace {

constexpr char kText[] = R"({ "a": 1,
  "b\"\u0041": { "x": [
      "two\nwords, {", 3,
      {"y": [[],
             [4]]}
    ], "z"
    : null },

  "c": [ ]
})";

TEST(JsonLines, FindsKeysAndElements) {
  const JsonLines lines(kText);
  EXPECT_EQ(lines.LineOf("a"), 1);
  EXPECT_EQ(lines.LineOf("b\"A"), 2);
  EXPECT_EQ(lines.LineOf("b\"A.x"), 2);
  EXPECT_EQ(lines.LineOf("b\"A.x[0]"), 3);
  EXPECT_EQ(lines.LineOf("b\"A.x[1]"), 3);
  EXPECT_EQ(lines.LineOf("b\"A.x[2]"), 4);
  EXPECT_EQ(lines.LineOf("b\"A.x[2].y[0]"), 4);
  EXPECT_EQ(lines.LineOf("b\"A.x[2].y[1]"), 5);
  EXPECT_EQ(lines.LineOf("b\"A.x[2].y[1][0]"), 5);
  EXPECT_EQ(lines.LineOf("b\"A.z"), 6);
  EXPECT_EQ(lines.LineOf("c"), 9);
  EXPECT_EQ(lines.doubled(), "");
}

TEST(JsonLines, TakesTheNearestLineForWhatIsNotThere) {
  const JsonLines lines(kText);
  EXPECT_EQ(lines.LineOf("b\"A.x[2].missing"), 4);
  EXPECT_EQ(lines.LineOf("c[3].q"), 9);
  EXPECT_EQ(lines.LineOf("nothing"), 1);
  EXPECT_EQ(lines.LineOf(""), 1);
}

TEST(JsonLines, FindsTheFirstDoubledKey) {
  const JsonLines lines("{\"a\": {\"b\": 1},\n \"c\": {\"b\": 2,\n\"b\": 3,\n\"b\": 4}}");
  EXPECT_EQ(lines.doubled(), "c.b");
  EXPECT_EQ(lines.LineOf("c.b"), 3);
}

TEST(JsonLines, TakesDeepNestingAndScalars) {
  const std::string deep(1 << 20, '[');
  EXPECT_EQ(JsonLines(deep + std::string(1 << 20, ']')).doubled(), "");
  EXPECT_EQ(JsonLines("3").LineOf("x"), 1);
  EXPECT_EQ(JsonLines("\"a\\\"b\"").LineOf("x"), 1);
}

TEST(JsonLines, CountsLines) {
  EXPECT_EQ(LineAt("a\nb\nc", 0), 1);
  EXPECT_EQ(LineAt("a\nb\nc", 2), 2);
  EXPECT_EQ(LineAt("a\nb\nc", 99), 3);
}

}  // namespace
}  // namespace fla
