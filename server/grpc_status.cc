#include "server/grpc_status.h"

#include <chrono>
#include <optional>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/retry_after.h"

namespace fla {

grpc::Status ToGrpcStatus(const absl::Status& status) {
  const std::string message(status.message());
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::optional<std::chrono::milliseconds> wait = RetryAfterOf(status);
  if (!wait) return {code, message};

  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(wait->count() / 1000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int>(wait->count() % 1000) * 1000000);
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  details.add_details()->PackFrom(retry);
  return {code, message, details.SerializeAsString()};
}

}  // namespace fla
