#include "server/retry_after.h"

#include <cstdint>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace fla {
namespace {

constexpr char kPayload[] = "fla/retry_after_milliseconds";

}  // namespace

absl::Status WithRetryAfter(absl::Status status, std::chrono::milliseconds wait) {
  status.SetPayload(kPayload, absl::Cord(absl::StrCat(wait.count())));
  return status;
}

std::optional<std::chrono::milliseconds> RetryAfterOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  int64_t milliseconds = 0;
  if (!payload || !absl::SimpleAtoi(static_cast<std::string>(*payload), &milliseconds))
    return std::nullopt;
  return std::chrono::milliseconds(milliseconds);
}

}  // namespace fla
