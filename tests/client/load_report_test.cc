#include "client/load_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace fla::client {
namespace {

using ::testing::HasSubstr;

// Started at `start`, first token 0.1 s later, then 4 tokens 0.02 s apart.
RequestRecord Record(int64_t index, double start) {
  RequestRecord record;
  record.index = index;
  record.start = record.sent = start;
  record.first_token = start + 0.1;
  record.last_token = record.end = start + 0.18;
  record.gaps = {0.02f, 0.02f, 0.02f, 0.02f};
  record.prompt_tokens = 10;
  record.completion_tokens = 5;
  record.token_hash = 99;
  return record;
}

TEST(LoadReportTest, PercentilesAreExact) {
  std::vector<double> samples;
  for (int i = 100; i >= 1; --i) samples.push_back(i);
  const Percentiles p = PercentilesOf(samples);
  EXPECT_EQ(p.count, 100);
  EXPECT_DOUBLE_EQ(p.mean, 50.5);
  EXPECT_EQ(p.p50, 50);
  EXPECT_EQ(p.p90, 90);
  EXPECT_EQ(p.p95, 95);
  EXPECT_EQ(p.p99, 99);
  EXPECT_EQ(p.max, 100);
  EXPECT_EQ(PercentilesOf({3.0}).p50, 3);
  EXPECT_EQ(PercentilesOf({3.0}).p99, 3);
  EXPECT_EQ(PercentilesOf({}).count, 0);
}

TEST(LoadReportTest, RatesAreOfTheWholeRun) {
  const LoadReport report = Summarize({Record(0, 1.0), Record(1, 2.82)}, {});
  EXPECT_DOUBLE_EQ(report.seconds, 2.0);
  EXPECT_DOUBLE_EQ(report.request_rate, 1.0);
  EXPECT_DOUBLE_EQ(report.prompt_token_rate, 10.0);
  EXPECT_DOUBLE_EQ(report.output_token_rate, 5.0);
  EXPECT_FALSE(report.goodput);
  EXPECT_NEAR(report.ttft.p50, 0.1, 1e-9);
  EXPECT_NEAR(report.tpot.p50, 0.02, 1e-9);
  EXPECT_EQ(report.gap.count, 8);
  EXPECT_NEAR(report.e2e.max, 0.18, 1e-9);
}

TEST(LoadReportTest, FailuresAndCancellationsAreNoLatencies) {
  RequestRecord refused = Record(1, 0), gone = Record(2, 0), cancelled = Record(3, 0);
  refused.code = grpc::StatusCode::RESOURCE_EXHAUSTED;
  refused.error = "the queue is full";
  refused.completion_tokens = 0;
  gone.code = grpc::StatusCode::UNAVAILABLE;
  cancelled.code = grpc::StatusCode::CANCELLED;
  cancelled.cancelled_here = true;
  cancelled.completion_tokens = 2;
  const LoadReport report = Summarize({Record(0, 0), refused, gone, cancelled}, {.ttft = 10.0});
  EXPECT_EQ(report.requests, 4);
  EXPECT_EQ(report.succeeded, 1);
  EXPECT_EQ(report.failed, 2);
  EXPECT_EQ(report.cancelled, 1);
  EXPECT_EQ(report.errors.at("RESOURCE_EXHAUSTED"), 1);
  EXPECT_EQ(report.first_error.at("RESOURCE_EXHAUSTED"), "the queue is full");
  EXPECT_EQ(report.ttft.count, 1);
  EXPECT_NEAR(*report.goodput * report.seconds, 1.0, 1e-9);
  EXPECT_NEAR(report.output_token_rate * report.seconds, 5 + 5 + 2, 1e-9);
  EXPECT_NEAR(report.prompt_token_rate * report.seconds, 30, 1e-9);
}

TEST(LoadReportTest, LateSendingCountsAsLatency) {
  RequestRecord record = Record(0, 1.0);
  record.start = 0.5;  // planned; sent at 1.0
  const LoadReport report = Summarize({record}, {});
  EXPECT_NEAR(report.ttft.p50, 0.6, 1e-9);
  EXPECT_NEAR(report.send_late.p50, 0.5, 1e-9);
}

TEST(LoadReportTest, GoodputNeedsEveryBound) {
  const std::vector<RequestRecord> records = {Record(0, 0)};
  EXPECT_GT(*Summarize(records, ParseBounds("ttft:101,tpot:20.1,e2e:181")).goodput, 0);
  EXPECT_EQ(*Summarize(records, ParseBounds("ttft:99")).goodput, 0);
  EXPECT_EQ(*Summarize(records, ParseBounds("ttft:101,tpot:19")).goodput, 0);
  EXPECT_EQ(*Summarize(records, ParseBounds("e2e:179")).goodput, 0);
  for (const char* wrong : {"", "ttft", "ttft:", "ttft:x", "ttft:-1", "ttft:0", "itl:5", "ttft:5,",
                            "ttft:5 ,e2e:5", "ttft:5;e2e:5"}) {
    EXPECT_THROW(ParseBounds(wrong), std::invalid_argument) << wrong;
  }
}

TEST(LoadReportTest, TheDigestIsOfTokensNotOfTimes) {
  const LoadReport report = Summarize({Record(0, 0), Record(1, 1)}, {});
  EXPECT_EQ(Summarize({Record(1, 5), Record(0, 3)}, {}).digest, report.digest);
  RequestRecord other = Record(1, 1);
  other.token_hash = 98;
  EXPECT_NE(Summarize({Record(0, 0), other}, {}).digest, report.digest);
}

TEST(LoadReportTest, PrintsATableAndJson) {
  RequestRecord refused = Record(1, 0);
  refused.code = grpc::StatusCode::RESOURCE_EXHAUSTED;
  refused.error = "full \"\xff\"";
  const LoadReport report = Summarize({Record(0, 0), refused}, {.ttft = 1.0});
  std::ostringstream table;
  PrintTable(report, table);
  EXPECT_THAT(table.str(), HasSubstr("2: 1 succeeded, 1 failed, 0 cancelled here"));
  EXPECT_THAT(table.str(), HasSubstr("RESOURCE_EXHAUSTED 1: full"));
  EXPECT_THAT(table.str(), HasSubstr("time to first token         100.00"));
  const auto json = nlohmann::json::parse(ToJson(report, {{"model", "demo"}}));
  EXPECT_EQ(json["model"], "demo");
  EXPECT_EQ(json["errors"]["RESOURCE_EXHAUSTED"]["count"], 1);
  EXPECT_NEAR(json["ttft_seconds"]["p99"].get<double>(), 0.1, 1e-9);
  EXPECT_EQ(json["output_digest"].get<std::string>().size(), 16u);
}

}  // namespace
}  // namespace fla::client
