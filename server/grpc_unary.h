// An RPC of the engine's that answers once, when everything is done.
#pragma once

#include <grpcpp/grpcpp.h>

#include <exception>
#include <memory>
#include <utility>

#include "proto/grpc_handover.h"
#include "server/engine_call.h"
#include "server/grpc_status.h"

namespace fla {

// Lives until its RPC is done: KeepUntilDone makes that so, to be called before Start.
class UnaryCall : public EngineCall, public grpc::ServerUnaryReactor {
 public:
  UnaryCall(const CallContext& context, Totals::Of choices) : EngineCall(context, choices) {}

  void KeepUntilDone() { self_ = shared_from_this(); }

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

  void FinishWith(const grpc::Status& status) final {
    GiveToGrpc(this);
    Finish(status);
  }
  int max_unread_events() const final { return 0; }  // bounded by the limits of a request

  void OnCancel() final {
    TakeFromGrpc(this);
    Cancel();
    GiveToGrpc(this);
  }
  void OnDone() final {
    TakeFromGrpc(this);
    const std::shared_ptr<EngineCall> last = std::move(self_);  // may destroy this on return
  }

  std::shared_ptr<EngineCall> self_;
};

}  // namespace fla
