// An RPC of the engine's: what those that answer once and those that stream have in common.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "proto/grpc_handover.h"
#include "server/engine_call.h"

namespace fla {

// Lives until its RPC is done.
template <typename Reactor>
class GrpcCall : public EngineCall, public Reactor {
 public:
  using EngineCall::EngineCall;

  // Once, before gRPC gets the reactor. `message` must live until the RPC is done.
  template <typename Message>
  void Serve(const Message& message, uint64_t id, const grpc::CallbackServerContext& rpc) {
    self_ = shared_from_this();
    ReadTrace(rpc);
    Start(message, id, rpc.deadline(), context_.access.Check(rpc, Role::kUser));
    GiveToGrpc(this);
  }

 protected:
  void FinishWith(const grpc::Status& status) final {
    GiveToGrpc(this);
    this->Finish(status);
  }

  // Of every response and message of a stream.
  template <typename Message>
  void FillOrigin(Message& message) const {
    message.set_request_id(client_request_id_);
    message.set_model(model_name_);
    message.set_model_version(model_version_);
  }
  // Of the last one; with mutex_ held.
  template <typename Message>
  void FillTotals(Message& message) const {
    *message.mutable_usage() = totals_.usage();
    *message.mutable_timings() = totals_.timings();
  }

 private:
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

// A call of the kind `Call`, made from `arguments`, that serves the RPC: its reactor.
template <typename Call, typename Message, typename... Arguments>
Call* StartCall(const CallContext& context, uint64_t id, const grpc::CallbackServerContext& rpc,
                const Message& message, Arguments... arguments) {
  const auto call = std::make_shared<Call>(context, arguments...);
  call->Serve(message, id, rpc);
  return call.get();
}

}  // namespace fla
