// What a load test found: rates, percentiles, errors.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "client/load_run.h"

namespace fla::client {

// In seconds. Exact: of the sorted samples, the smallest that is no less than that share of all.
struct Percentiles {
  int64_t count = 0;
  double mean = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0, max = 0;
};
Percentiles PercentilesOf(std::vector<double> samples);

// A request is good if it succeeds within all of these, in seconds.
struct LatencyBounds {
  std::optional<double> ttft, tpot, e2e;

  bool any() const { return ttft || tpot || e2e; }
};
// "ttft:500,tpot:50,e2e:10000", in milliseconds. Throws std::invalid_argument.
LatencyBounds ParseBounds(const std::string& text);

struct LoadReport {
  int64_t requests = 0, succeeded = 0, cancelled = 0, failed = 0;
  std::map<std::string, int64_t> errors;           // by code
  std::map<std::string, std::string> first_error;  // by code: the text of the first
  double seconds = 0;                              // from the first request to the last answer
  // A second. Tokens of requests that were cancelled or failed count as far as they came.
  double request_rate = 0, prompt_token_rate = 0, output_token_rate = 0;
  std::optional<double> goodput;  // good requests a second
  // Of requests that succeeded. From the start that the plan wanted, so that a server (or this
  // client) that falls behind cannot hide it.
  Percentiles ttft;       // start to first token
  Percentiles tpot;       // per request: first token to last, over the tokens between
  Percentiles gap;        // per message: since the one before
  Percentiles e2e;        // start to the end of the stream
  Percentiles queue;      // in the server's queue, as it says
  Percentiles send_late;  // open loop: how much later than planned this client sent
  uint64_t digest = 0;    // of all tokens of requests that succeeded, with their index
};

LoadReport Summarize(const std::vector<RequestRecord>& records, const LatencyBounds& bounds);

void PrintTable(const LoadReport& report, std::ostream& out);
// One object; latencies in seconds. `title` are facts about the run, which go first.
std::string ToJson(const LoadReport& report, const std::map<std::string, std::string>& title);

}  // namespace fla::client
