// How fla-cli reaches a server.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

namespace fla::client {

// "NOT_FOUND": the name that gRPC's documentation uses.
const char* NameOf(grpc::StatusCode code);

// "NOT_FOUND: model: wanted one of ...".
class RpcError : public std::runtime_error {
 public:
  explicit RpcError(const grpc::Status& status);
};

void ThrowUnlessOk(const grpc::Status& status);

// Where the server is and how long one call may take.
struct Connection {
  std::string address = "127.0.0.1:50051";
  std::optional<double> timeout_seconds;

  // Each channel is a connection of its own.
  std::shared_ptr<grpc::Channel> Open() const;
  void Apply(grpc::ClientContext& context) const;
};

}  // namespace fla::client
