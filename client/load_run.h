// Sends a plan's requests to a server and notes what came back when.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/connection.h"
#include "client/load_plan.h"
#include "fla/v1/inference.grpc.pb.h"

namespace fla::client {

struct LoadOptions {
  std::string model;    // empty: the server's default
  int concurrency = 0;  // closed loop: requests in flight; 0: open loop, by the plan's start times
  std::optional<int64_t> requests;         // of which the run ends after at least one
  std::optional<double> duration_seconds;  // no request starts later
  int connections = 4;                     // that requests take in turn
  float temperature = 1.0f;
};

// One request as its client saw it. Times in seconds since the run began; 0: did not come.
struct RequestRecord {
  int64_t index = 0;
  double start = 0;  // closed loop: sent; open loop: when it should have been sent
  double sent = 0;
  double first_token = 0;
  double last_token = 0;
  double end = 0;
  std::vector<float> gaps;  // between messages that brought tokens
  int prompt_tokens = 0;
  int completion_tokens = 0;
  double queue_seconds = 0;  // as the server says
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string error;
  bool cancelled_here = false;  // as planned
  uint64_t token_hash = 0;      // of the tokens in order
};

struct LoadProgress {
  double seconds = 0;
  int64_t started = 0, finished = 0, failed = 0;
  int64_t completion_tokens = 0;
};

// Runs until every request that was started has ended, and returns them in the order of the plan.
// `report` is called on the calling thread a few times a second and at the end.
std::vector<RequestRecord> RunLoad(const Connection& connection, const LoadOptions& options,
                                   LoadPlan plan,
                                   const std::function<void(const LoadProgress&)>& report);

}  // namespace fla::client
