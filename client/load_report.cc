#include "client/load_report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <string_view>

namespace fla::client {
namespace {

using Json = nlohmann::ordered_json;

double TimePerOutputToken(const RequestRecord& record) {
  return record.completion_tokens < 2
             ? 0.0
             : (record.last_token - record.first_token) / (record.completion_tokens - 1);
}

bool IsGood(const RequestRecord& record, const LatencyBounds& bounds) {
  const auto within = [](double seconds, const std::optional<double>& bound) {
    return !bound || seconds <= *bound;
  };
  return record.code == grpc::StatusCode::OK &&
         within(record.first_token - record.start, bounds.ttft) &&
         within(TimePerOutputToken(record), bounds.tpot) &&
         within(record.end - record.start, bounds.e2e);
}

void PrintRow(std::ostream& out, const char* name, const Percentiles& p) {
  if (p.count == 0) return;
  char line[160];
  std::snprintf(line, sizeof(line), "%-24s %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f\n", name,
                p.mean * 1e3, p.p50 * 1e3, p.p90 * 1e3, p.p95 * 1e3, p.p99 * 1e3, p.max * 1e3);
  out << line;
}

Json ToJson(const Percentiles& p) {
  return {{"count", p.count}, {"mean", p.mean}, {"p50", p.p50}, {"p90", p.p90},
          {"p95", p.p95},     {"p99", p.p99},   {"max", p.max}};
}

std::string HexOf(uint64_t bits) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(bits));
  return text;
}

}  // namespace

Percentiles PercentilesOf(std::vector<double> samples) {
  Percentiles result;
  if (samples.empty()) return result;
  std::sort(samples.begin(), samples.end());
  const auto at = [&](double share) {
    const double rank = std::ceil(share * static_cast<double>(samples.size()));
    return samples[static_cast<size_t>(std::max(rank, 1.0)) - 1];
  };
  result.count = static_cast<int64_t>(samples.size());
  result.mean =
      std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
  result.p50 = at(0.50);
  result.p90 = at(0.90);
  result.p95 = at(0.95);
  result.p99 = at(0.99);
  result.max = samples.back();
  return result;
}

LatencyBounds ParseBounds(const std::string& text) {
  LatencyBounds bounds;
  std::string_view rest = text;
  while (true) {
    const std::string_view part = rest.substr(0, rest.find(','));
    const size_t colon = part.find(':');
    const std::string_view name = part.substr(0, colon);
    std::optional<double>* bound = name == "ttft"   ? &bounds.ttft
                                   : name == "tpot" ? &bounds.tpot
                                   : name == "e2e"  ? &bounds.e2e
                                                    : nullptr;
    double milliseconds = 0;
    const char* end = part.data() + part.size();
    const auto parsed = colon == std::string_view::npos
                            ? std::from_chars_result{nullptr, std::errc::invalid_argument}
                            : std::from_chars(part.data() + colon + 1, end, milliseconds);
    if (bound == nullptr || parsed.ec != std::errc() || parsed.ptr != end || !(milliseconds > 0)) {
      throw std::invalid_argument(
          "wanted bounds in milliseconds as \"ttft:500,tpot:50,e2e:10000\", got \"" + text + "\"");
    }
    *bound = milliseconds / 1e3;
    if (part.size() == rest.size()) return bounds;
    rest.remove_prefix(part.size() + 1);
  }
}

LoadReport Summarize(const std::vector<RequestRecord>& records, const LatencyBounds& bounds) {
  LoadReport report;
  std::vector<double> ttft, tpot, gap, e2e, queue, late;
  int64_t prompt_tokens = 0, output_tokens = 0, good = 0;
  double begin = INFINITY, end = 0;
  for (const RequestRecord& record : records) {
    ++report.requests;
    begin = std::min(begin, record.start);
    end = std::max(end, record.end);
    late.push_back(record.sent - record.start);
    output_tokens += record.completion_tokens;
    if (record.completion_tokens > 0) prompt_tokens += record.prompt_tokens;
    if (record.cancelled_here) {
      ++report.cancelled;
      continue;
    }
    if (record.code != grpc::StatusCode::OK) {
      ++report.failed;
      const std::string code = NameOf(record.code);
      ++report.errors[code];
      report.first_error.emplace(code, record.error);
      continue;
    }
    ++report.succeeded;
    if (IsGood(record, bounds)) ++good;
    ttft.push_back(record.first_token - record.start);
    if (record.completion_tokens > 1) tpot.push_back(TimePerOutputToken(record));
    gap.insert(gap.end(), record.gaps.begin(), record.gaps.end());
    e2e.push_back(record.end - record.start);
    queue.push_back(record.queue_seconds);
    // A sum, so that the order of records does not matter.
    report.digest += Random(record.token_hash ^ static_cast<uint64_t>(record.index)).Bits();
  }
  report.ttft = PercentilesOf(std::move(ttft));
  report.tpot = PercentilesOf(std::move(tpot));
  report.gap = PercentilesOf(std::move(gap));
  report.e2e = PercentilesOf(std::move(e2e));
  report.queue = PercentilesOf(std::move(queue));
  report.send_late = PercentilesOf(std::move(late));
  if (records.empty() || end <= begin) return report;
  report.seconds = end - begin;
  report.request_rate = static_cast<double>(report.succeeded) / report.seconds;
  report.prompt_token_rate = static_cast<double>(prompt_tokens) / report.seconds;
  report.output_token_rate = static_cast<double>(output_tokens) / report.seconds;
  if (bounds.any()) report.goodput = static_cast<double>(good) / report.seconds;
  return report;
}

void PrintTable(const LoadReport& report, std::ostream& out) {
  char line[200];
  std::snprintf(line, sizeof(line),
                "%-16s %lld: %lld succeeded, %lld failed, %lld cancelled here\n", "requests",
                static_cast<long long>(report.requests), static_cast<long long>(report.succeeded),
                static_cast<long long>(report.failed), static_cast<long long>(report.cancelled));
  out << line;
  for (const auto& [code, count] : report.errors) {
    out << "  " << code << " " << count << ": " << report.first_error.at(code) << "\n";
  }
  std::snprintf(line, sizeof(line),
                "%-16s %.2f s\n%-16s %.2f requests/s, %.1f prompt tokens/s, %.1f output tokens/s\n",
                "duration", report.seconds, "throughput", report.request_rate,
                report.prompt_token_rate, report.output_token_rate);
  out << line;
  if (report.goodput) {
    std::snprintf(line, sizeof(line), "%-16s %.2f requests/s\n", "goodput", *report.goodput);
    out << line;
  }
  out << "output digest    " << HexOf(report.digest) << "\n\n";
  std::snprintf(line, sizeof(line), "%-24s %9s %9s %9s %9s %9s %9s\n", "milliseconds", "mean",
                "p50", "p90", "p95", "p99", "max");
  out << line;
  PrintRow(out, "time to first token", report.ttft);
  PrintRow(out, "time per output token", report.tpot);
  PrintRow(out, "gap between messages", report.gap);
  PrintRow(out, "end to end", report.e2e);
  PrintRow(out, "in the server's queue", report.queue);
  PrintRow(out, "sent later than planned", report.send_late);
}

std::string ToJson(const LoadReport& report, const std::map<std::string, std::string>& title) {
  Json json;
  for (const auto& [key, value] : title) json[key] = value;
  json["requests"] = report.requests;
  json["succeeded"] = report.succeeded;
  json["failed"] = report.failed;
  json["cancelled"] = report.cancelled;
  json["errors"] = Json::object();
  for (const auto& [code, count] : report.errors) {
    json["errors"][code] = {{"count", count}, {"first", report.first_error.at(code)}};
  }
  json["seconds"] = report.seconds;
  json["requests_per_second"] = report.request_rate;
  json["prompt_tokens_per_second"] = report.prompt_token_rate;
  json["output_tokens_per_second"] = report.output_token_rate;
  if (report.goodput) json["good_requests_per_second"] = *report.goodput;
  json["output_digest"] = HexOf(report.digest);
  json["ttft_seconds"] = ToJson(report.ttft);
  json["tpot_seconds"] = ToJson(report.tpot);
  json["gap_seconds"] = ToJson(report.gap);
  json["e2e_seconds"] = ToJson(report.e2e);
  json["queue_seconds"] = ToJson(report.queue);
  json["send_late_seconds"] = ToJson(report.send_late);
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace fla::client
