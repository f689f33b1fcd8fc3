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

// Where the server is, who we are, and how long one call may take.
struct Connection {
  std::string address = "127.0.0.1:50051";
  std::optional<double> timeout_seconds;
  bool tls = false;
  // PEM files; empty: what the system trusts; no certificate of our own.
  std::string ca_file, certificate_file, key_file;
  std::string api_key;  // empty: none

  // Each channel is a connection of its own. Throws std::runtime_error for a file that cannot be
  // read.
  std::shared_ptr<grpc::Channel> Open() const;
  void Apply(grpc::ClientContext& context) const;
};

// One unary call, as Call(connection, *stub, &v1::Control::Stub::Drain, request). Throws RpcError.
template <typename Stub, typename Request, typename Response>
Response Call(const Connection& connection, Stub& stub,
              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
              const Request& request) {
  grpc::ClientContext context;
  connection.Apply(context);
  Response response;
  ThrowUnlessOk((stub.*method)(&context, request, &response));
  return response;
}

// "-": standard input. Throws std::runtime_error.
std::string ReadFile(const std::string& name);

}  // namespace fla::client
