#include "server/field_checks.h"

#include "absl/strings/str_cat.h"
#include "model/tokenizer.h"

namespace fla {
namespace {

constexpr size_t kMaxRequestIdBytes = 256;

}  // namespace

absl::Status Invalid(const std::string& field, const std::string& wanted, const std::string& got) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": wanted ", wanted, ", got ", got));
}

absl::Status CheckRange(const std::string& field, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return Invalid(field, absl::StrCat("an integer from ", least, " to ", most), absl::StrCat(value));
}

absl::Status CheckUtf8(const std::string& field, const std::string& text) {
  if (IsValidUtf8(text)) return absl::OkStatus();
  return Invalid(field, "UTF-8", "other bytes");
}

absl::Status CheckCount(const std::string& field, int count, int most) {
  if (count <= most) return absl::OkStatus();
  return Invalid(field, absl::StrCat("at most ", most, " entries"), absl::StrCat(count));
}

absl::Status CheckTokenIds(const std::string& field, const int32_t* ids, int count,
                           int vocab_size) {
  if (vocab_size == 0 && count > 0) {
    return Invalid(field, "none, for the model has no vocabulary", absl::StrCat(count));
  }
  for (int i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return Invalid(field, absl::StrCat("token ids from 0 to ", vocab_size - 1),
                   absl::StrCat(ids[i], " at index ", i));
  }
  return absl::OkStatus();
}

absl::Status CheckRequestId(const std::string& request_id) {
  if (absl::Status status = CheckUtf8("request_id", request_id); !status.ok()) return status;
  if (request_id.size() <= kMaxRequestIdBytes) return absl::OkStatus();
  return Invalid("request_id", absl::StrCat("at most ", kMaxRequestIdBytes, " bytes"),
                 absl::StrCat(request_id.size()));
}

}  // namespace fla
