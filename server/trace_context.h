// W3C Trace Context: which trace of the client's a request belongs to.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fla {

struct TraceContext {
  std::string trace_id;   // 32 hexadecimal digits
  std::string parent_id;  // 16: the client's span
  bool sampled = false;
};

// Reads a `traceparent` header (https://www.w3.org/TR/trace-context/, section 3.2). Nothing for one
// that the standard calls invalid: such a request counts as one without.
std::optional<TraceContext> ParseTraceparent(std::string_view header);

}  // namespace fla
