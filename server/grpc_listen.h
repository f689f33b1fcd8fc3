// Opens the server's port: TLS, connections, sizes.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "server/options.h"

namespace fla {

struct Listening {
  std::unique_ptr<grpc::Server> server;
  std::string address;  // with the port that was chosen
  int port = 0;
};

// Starts to serve, with the health service and reflection beside `services`, which must outlive
// the server. Throws std::runtime_error for an address that cannot be had and as CheckTls.
Listening Listen(const ServerOptions& options, const std::vector<grpc::Service*>& services);

// Throws std::runtime_error for an address that cannot be had now: another server listens there.
void CheckListen(const std::string& address);

// Throws std::runtime_error "file: what: wanted, got" for files that cannot be read, are no PEM, or
// a key that is not the certificate's. gRPC itself would only fail every connection.
void CheckTls(const TlsOptions& tls);

}  // namespace fla
