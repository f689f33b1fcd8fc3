// Unary calls that are answered at once.
#pragma once

#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <exception>

#include "proto/grpc_handover.h"
#include "server/grpc_access.h"
#include "server/grpc_status.h"

namespace fla {

// A unary call that ends once and destroys itself then.
class UnaryAnswer final : public grpc::ServerUnaryReactor {
 public:
  void End(const absl::Status& status) {
    GiveToGrpc(this);
    Finish(ToGrpcStatus(status));
  }

 private:
  void OnDone() override {
    TakeFromGrpc(this);
    delete this;
  }
};

// Runs `run`, which returns an absl::Status, if the caller's key allows it, and ends the call with
// what it says. No exception leaves it, and none of their text: clients learn nothing of the
// server's inside.
template <typename Run>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* rpc, const GrpcAccess& access,
                                 Role role, Run run) {
  absl::Status status = access.Check(*rpc, role);
  try {
    if (status.ok()) status = run();
  } catch (const std::exception& error) {
    spdlog::error("a call failed: {}", error.what());
    status = absl::InternalError("the server has failed; its log says more");
  }
  auto* const answer = new UnaryAnswer;
  answer->End(status);
  return answer;
}

}  // namespace fla
