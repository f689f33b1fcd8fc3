#include "server/grpc_generate.h"

#include <exception>

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
    FillOrigin(*response_);
    for (int i = 0; i < choices_; ++i) response_->add_choices()->set_index(i);
    while (!buffer_.empty()) {
      const Event event = buffer_.Take();
      AppendEvent(event, *tokenizer_, *response_->mutable_choices(event.choice),
                  *response_->mutable_prompt_logprobs());
    }
    FillTotals(*response_);
  }

  v1::GenerateResponse* response_;  // gRPC's; not touched after Finish
};

class StreamedCall final : public GrpcCall<grpc::ServerWriteReactor<v1::GenerateStreamResponse>> {
 public:
  explicit StreamedCall(const CallContext& context) : GrpcCall(context, Totals::kChoices) {}

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
    FillOrigin(message_);
    AppendEvent(event, *tokenizer_, *message_.mutable_delta(), *message_.mutable_prompt_logprobs());
    if (complete() && buffer_.empty()) FillTotals(message_);
  }

  void OnWriteDone(bool ok) override {
    TakeFromGrpc(this);
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
      // The client is gone, or a drain has cut the call off.
      if (!ok && failure_.ok()) failure_ = absl::CancelledError("the connection ended");
      if (!ok) buffer_.Clear();
    }
    Advance();
  }

  int max_unread_events() const override { return context_.limits.max_unread_events; }

  v1::GenerateStreamResponse message_;  // the one in flight
  bool writing_ = false;                // guarded by mutex_
};

}  // namespace

grpc::ServerUnaryReactor* StartUnaryCall(const CallContext& context, uint64_t id,
                                         const grpc::CallbackServerContext& rpc,
                                         const v1::GenerateRequest& message,
                                         v1::GenerateResponse* response) {
  return StartCall<GenerateCall>(context, id, rpc, message, response);
}

grpc::ServerWriteReactor<v1::GenerateStreamResponse>* StartStreamedCall(
    const CallContext& context, uint64_t id, const grpc::CallbackServerContext& rpc,
    const v1::GenerateRequest& message) {
  return StartCall<StreamedCall>(context, id, rpc, message);
}

}  // namespace fla
