// The server's log: its format, and the line that each request leaves in it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "fla/v1/inference.pb.h"
#include "server/options.h"
#include "server/trace_context.h"

namespace fla {

// Sends spdlog's default logger to standard error as the options say: text, or a JSON object a line
// with time, level and message. To be called before other threads log.
void ConfigureLog(const LogOptions& options);

// What is known of a call that generates when it is over.
struct RequestRecord {
  uint64_t id = 0;
  std::string client_id;  // as the client sent it: any bytes
  std::string model;      // empty: none was found
  std::optional<TraceContext> trace;
  int choices = 0;
  v1::Usage usage;
  v1::Timings timings;
  std::vector<std::string> finish_reasons;  // one a finished choice
  absl::Status status;                      // what the client was told
  std::string prompt;                       // text, or token ids; only where the options ask for it
};

// One line, nothing in it that could end the line or the field: "request id=1 client_id=..".
std::string ToText(const RequestRecord& record);
// The same as a JSON object; times are in seconds, bytes that are no UTF-8 become U+FFFD.
std::string ToJson(const RequestRecord& record);

// Thread safety: all methods may be called from any thread.
class RequestLog {
 public:
  explicit RequestLog(const LogOptions& options) : options_(options) {}

  bool wants_prompts() const { return options_.requests && options_.prompts; }
  void Write(const RequestRecord& record) const;

 private:
  const LogOptions options_;
};

}  // namespace fla
