// What gRPC tells a client about a failure.
#pragma once

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"

namespace fla {

// With a google.rpc.RetryInfo in the details where the status has a hint when to retry.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace fla
