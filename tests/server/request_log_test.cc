#include "server/request_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include <nlohmann/json.hpp>
#include <string>

namespace fla {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr const char* kTraceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(Traceparent, IsReadAsTheStandardSays) {
  const auto trace = ParseTraceparent(kTraceparent);
  ASSERT_TRUE(trace.has_value());
  EXPECT_EQ(trace->trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(trace->parent_id, "00f067aa0ba902b7");
  EXPECT_TRUE(trace->sampled);
  EXPECT_FALSE(
      ParseTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0e")->sampled);
  // A later version may have more fields.
  EXPECT_TRUE(
      ParseTraceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0f-what").has_value());
}

TEST(Traceparent, WhatTheStandardCallsInvalidIsNone) {
  for (const char* header : {
           "",
           "00",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",        // too short
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",  // too long for 00
           "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01what",   // no separator
           "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",       // no such version
           "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",       // upper case
           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",       // no trace
           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",       // no parent
           "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",       // separators
           "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
           "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
           "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
           "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
       }) {
    EXPECT_FALSE(ParseTraceparent(header).has_value()) << header;
  }
}

RequestRecord Finished() {
  RequestRecord record;
  record.id = 7;
  record.client_id = "abc\n\"12\"";
  record.model = "demo";
  record.choices = 2;
  record.usage.set_prompt_tokens(5);
  record.usage.set_completion_tokens(9);
  record.timings.set_queue_seconds(0.001);
  record.timings.set_prefill_seconds(0.002);
  record.timings.set_decode_seconds(0.5);
  record.timings.set_first_token_seconds(0.003);
  record.timings.set_longest_gap_seconds(0.25);
  record.timings.set_total_seconds(0.75);
  record.finish_reasons = {"stop", "length"};
  return record;
}

TEST(RequestLine, IsOneLineOfText) {
  RequestRecord record = Finished();
  record.trace = ParseTraceparent(kTraceparent);
  EXPECT_EQ(ToText(record),
            R"(request id=7 client_id="abc\n\"12\"" model=demo choices=2 prompt_tokens=5 )"
            "completion_tokens=9 finish=stop,length queue=1.0ms prefill=2.0ms decode=500.0ms "
            "longest_gap=250.0ms total=750.0ms trace_id=4bf92f3577b34da6a3ce929d0e0e4736 "
            "parent_id=00f067aa0ba902b7");
}

TEST(RequestLine, OfARefusalSaysWhy) {
  RequestRecord record;
  record.id = 8;
  record.status = absl::NotFoundError("model: wanted a, got \"b\"\n");
  EXPECT_EQ(ToText(record),
            R"(request id=8 client_id="" model=? choices=0 prompt_tokens=0 completion_tokens=0 )"
            R"(status=NOT_FOUND message="model: wanted a, got \"b\"\n")");
  const auto json = nlohmann::json::parse(ToJson(record));
  EXPECT_EQ(json["status"], "NOT_FOUND");
  EXPECT_EQ(json["message"], "model: wanted a, got \"b\"\n");
}

TEST(RequestLine, IsAJsonObject) {
  RequestRecord record = Finished();
  record.trace = ParseTraceparent(kTraceparent);
  const std::string line = ToJson(record);
  EXPECT_THAT(line, Not(HasSubstr("\n")));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["event"], "request");
  EXPECT_EQ(json["id"], 7);
  EXPECT_EQ(json["client_id"], "abc\n\"12\"");
  EXPECT_EQ(json["status"], "OK");
  EXPECT_EQ(json["finish_reasons"], nlohmann::json({"stop", "length"}));
  EXPECT_EQ(json["prompt_tokens"], 5);
  EXPECT_EQ(json["completion_tokens"], 9);
  EXPECT_EQ(json["first_token_seconds"], 0.003);
  EXPECT_EQ(json["longest_gap_seconds"], 0.25);
  EXPECT_EQ(json["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
  EXPECT_EQ(json["sampled"], true);
  EXPECT_FALSE(json.contains("prompt") || json.contains("message"));
}

TEST(RequestLine, HasTheBytesOfAClientTamed) {
  RequestRecord record = Finished();
  record.client_id = std::string("\xff\x00", 2) + std::string(1000, 'x');
  record.prompt = std::string(10000, 'y');
  EXPECT_LT(ToText(record).size(), 5000u);
  EXPECT_THAT(ToText(record), HasSubstr(R"(client_id="\377\000xxx)"));
  const auto json = nlohmann::json::parse(ToJson(record));
  EXPECT_EQ(json["client_id"].get<std::string>().substr(0, 3), "\xef\xbf\xbd");
  EXPECT_EQ(json["prompt"].get<std::string>().size(), 4096u);
}

// What standard error gets while `log` runs.
template <typename Log>
std::string Captured(const LogOptions& options, Log log) {
  ::testing::internal::CaptureStderr();
  ConfigureLog(options);
  log();
  spdlog::default_logger()->flush();
  const std::string text = ::testing::internal::GetCapturedStderr();
  ConfigureLog({});
  return text;
}

TEST(Log, IsJsonLinesIfAskedFor) {
  LogOptions options;
  options.json = true;
  const std::string text = Captured(options, [&] {
    spdlog::warn("a \"message\"\nof two lines");
    RequestLog(options).Write(Finished());
  });
  const size_t end = text.find('\n');
  const auto message = nlohmann::json::parse(text.substr(0, end));
  EXPECT_EQ(message["level"], "warning");
  EXPECT_EQ(message["message"], "a \"message\"\nof two lines");
  const auto request = nlohmann::json::parse(text.substr(end + 1));
  EXPECT_EQ(request["level"], "info");
  EXPECT_EQ(request["id"], 7);
  for (const auto& line : {message, request}) {
    EXPECT_THAT(line["time"].get<std::string>(), MatchesRegex("20..-..-..T..:..:..\\....Z"));
  }
}

TEST(Log, IsTextOtherwise) {
  const LogOptions options;
  const std::string text = Captured(options, [&] { RequestLog(options).Write(Finished()); });
  EXPECT_THAT(text, HasSubstr("[info] request id=7 "));
}

TEST(Log, OmitsRequestsAndLowLevelsIfAskedFor) {
  LogOptions options;
  options.requests = false;
  options.level = "warn";
  for (const bool json : {false, true}) {
    options.json = json;
    const std::string text = Captured(options, [&] {
      spdlog::info("quiet");
      RequestLog(options).Write(Finished());
    });
    EXPECT_EQ(text, "");
  }
  EXPECT_FALSE(RequestLog(options).wants_prompts());
}

}  // namespace
}  // namespace fla
