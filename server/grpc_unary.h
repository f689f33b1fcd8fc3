// An RPC of the engine's that answers once, when everything is done.
#pragma once

#include <grpcpp/grpcpp.h>

#include <exception>

#include "server/grpc_call.h"
#include "server/grpc_status.h"

namespace fla {

class UnaryCall : public GrpcCall<grpc::ServerUnaryReactor> {
 public:
  using GrpcCall::GrpcCall;

 protected:
  // Fills the response from buffer_ and totals_, with mutex_ held. May throw.
  virtual void FillResponse() = 0;

 private:
  void Advance() final {
    absl::Status status;
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || (failure_.ok() && !complete())) return;
      closed_ = true;
      status = failure_;
      try {
        if (status.ok()) FillResponse();
      } catch (const std::exception& error) {
        status = InternalError(error);
      }
      LogOutcome(status);
    }
    if (!status.ok()) Cancel();
    FinishWith(ToGrpcStatus(status));
  }

  int max_unread_events() const final { return 0; }  // bounded by the limits of a request
};

}  // namespace fla
