// Refusals of single fields of a client's message: INVALID_ARGUMENT "field: wanted .., got ..".
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace fla {

absl::Status Invalid(const std::string& field, const std::string& wanted, const std::string& got);

// Each OK, or Invalid.
absl::Status CheckRange(const std::string& field, int64_t value, int64_t least, int64_t most);
absl::Status CheckUtf8(const std::string& field, const std::string& text);
absl::Status CheckCount(const std::string& field, int count, int most);
absl::Status CheckTokenIds(const std::string& field, const int32_t* ids, int count, int vocab_size);
absl::Status CheckRequestId(const std::string& request_id);

}  // namespace fla
