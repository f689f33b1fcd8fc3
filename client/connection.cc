#include "client/connection.h"

#include <chrono>
#include <iterator>

namespace fla::client {

const char* NameOf(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  return code >= 0 && code < static_cast<int>(std::size(kNames)) ? kNames[code] : "?";
}

RpcError::RpcError(const grpc::Status& status)
    : std::runtime_error(std::string(NameOf(status.error_code())) + ": " + status.error_message()) {
}

void ThrowUnlessOk(const grpc::Status& status) {
  if (!status.ok()) throw RpcError(status);
}

std::shared_ptr<grpc::Channel> Connection::Open() const {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // log-probabilities of a long prompt are large
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void Connection::Apply(grpc::ClientContext& context) const {
  if (!timeout_seconds) return;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(
                           std::chrono::duration<double>(*timeout_seconds)));
}

}  // namespace fla::client
