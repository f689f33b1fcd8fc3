// A hint on a status that is not OK: when trying again is worth while.
#pragma once

#include <chrono>
#include <optional>

#include "absl/status/status.h"

namespace fla {

absl::Status WithRetryAfter(absl::Status status, std::chrono::milliseconds wait);
// None if the status brings no hint.
std::optional<std::chrono::milliseconds> RetryAfterOf(const absl::Status& status);

}  // namespace fla
