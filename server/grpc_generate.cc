#include "server/grpc_generate.h"

#include <exception>
#include <utility>

#include "proto/grpc_handover.h"
#include "server/grpc_status.h"
#include "server/grpc_unary.h"

namespace fla {
namespace {

class GenerateCall final : public UnaryCall {
 public:
  GenerateCall(const CallContext& context, v1::GenerateResponse* response)
      : UnaryCall(context, Totals::kChoices), response_(response) {}

 private:
  void FillResponse() override {
    response_->set_request_id(client_request_id_);
    response_->set_model(model_name_);
    response_->set_model_version(model_version_);
    for (int i = 0; i < choices_; ++i) response_->add_choices()->set_index(i);
    while (!buffer_.empty()) {
      const Event event = buffer_.Take();
      AppendEvent(event, *tokenizer_, *response_->mutable_choices(event.choice),
                  *response_->mutable_prompt_logprobs());
    }
    *response_->mutable_usage() = totals_.usage();
    *response_->mutable_timings() = totals_.timings();
  }

  v1::GenerateResponse* response_;  // gRPC's; not touched after Finish
};

class StreamedCall final : public EngineCall,
                           public grpc::ServerWriteReactor<v1::GenerateStreamResponse> {
 public:
  explicit StreamedCall(const CallContext& context) : EngineCall(context, Totals::kChoices) {}

  void KeepUntilDone() { self_ = shared_from_this(); }

 private:
  void Advance() override {
    absl::Status status;
    bool last;
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || writing_) return;
      last = complete() || !failure_.ok();
      try {
        if (!buffer_.empty()) {
          TakeMessage();
          writing_ = true;
          // A message and a status that is no OK do not travel together.
          last = last && buffer_.empty() && failure_.ok();
        } else if (!last) {
          return;
        }
      } catch (const std::exception& error) {
        failure_ = InternalError(error);
        last = true;
      }
      status = failure_;
      closed_ = last;
      if (last) LogOutcome(status);
    }
    GiveToGrpc(this);
    if (!last) {
      StartWrite(&message_);
    } else if (writing_) {
      StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      Cancel();
      FinishWith(ToGrpcStatus(status));
    }
  }

  void TakeMessage() {
    const Event event = buffer_.Take();
    message_.Clear();
    message_.set_request_id(client_request_id_);
    message_.set_model(model_name_);
    message_.set_model_version(model_version_);
    AppendEvent(event, *tokenizer_, *message_.mutable_delta(), *message_.mutable_prompt_logprobs());
    if (complete() && buffer_.empty()) {
      *message_.mutable_usage() = totals_.usage();
      *message_.mutable_timings() = totals_.timings();
    }
  }

  void OnWriteDone(bool ok) override {
    TakeFromGrpc(this);
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
      if (!ok && failure_.ok()) failure_ = absl::CancelledError("the client is gone");
      if (!ok) buffer_.Clear();
    }
    Advance();
  }

  void FinishWith(const grpc::Status& status) override {
    GiveToGrpc(this);
    Finish(status);
  }
  int max_unread_events() const override { return context_.limits.max_unread_events; }

  void OnCancel() override {
    TakeFromGrpc(this);
    Cancel();
    GiveToGrpc(this);
  }
  void OnDone() override {
    TakeFromGrpc(this);
    const std::shared_ptr<EngineCall> last = std::move(self_);  // may destroy this on return
  }

  v1::GenerateStreamResponse message_;  // the one in flight
  bool writing_ = false;                // guarded by mutex_
  std::shared_ptr<EngineCall> self_;
};

}  // namespace

grpc::ServerUnaryReactor* StartUnaryCall(const CallContext& context, uint64_t id,
                                         const grpc::CallbackServerContext& rpc,
                                         const v1::GenerateRequest& message,
                                         v1::GenerateResponse* response) {
  auto call = std::make_shared<GenerateCall>(context, response);
  call->KeepUntilDone();
  call->ReadTrace(rpc);
  call->Start(message, id, rpc.deadline(), context.access.Check(rpc, Role::kUser));
  GiveToGrpc(call.get());
  return call.get();
}

grpc::ServerWriteReactor<v1::GenerateStreamResponse>* StartStreamedCall(
    const CallContext& context, uint64_t id, const grpc::CallbackServerContext& rpc,
    const v1::GenerateRequest& message) {
  auto call = std::make_shared<StreamedCall>(context);
  call->KeepUntilDone();
  call->ReadTrace(rpc);
  call->Start(message, id, rpc.deadline(), context.access.Check(rpc, Role::kUser));
  GiveToGrpc(call.get());
  return call.get();
}

}  // namespace fla
