#include "server/grpc_embed.h"

#include <memory>

#include "proto/grpc_handover.h"
#include "server/grpc_unary.h"

namespace fla {
namespace {

class EmbedCall final : public UnaryCall {
 public:
  EmbedCall(const CallContext& context, v1::EmbedResponse* response)
      : UnaryCall(context, Totals::kInputs), response_(response) {}

 private:
  void FillResponse() override {
    response_->set_request_id(client_request_id_);
    response_->set_model(model_name_);
    response_->set_model_version(model_version_);
    for (int i = 0; i < choices_; ++i) response_->add_embeddings();
    while (!buffer_.empty()) {
      const Event event = buffer_.Take();
      FillEmbedding(event, hidden_size_, *response_->mutable_embeddings(event.choice));
    }
    *response_->mutable_usage() = totals_.usage();
    *response_->mutable_timings() = totals_.timings();
  }

  v1::EmbedResponse* response_;  // gRPC's; not touched after Finish
};

}  // namespace

grpc::ServerUnaryReactor* StartEmbedCall(const CallContext& context, uint64_t id,
                                         const grpc::CallbackServerContext& rpc,
                                         const v1::EmbedRequest& message,
                                         v1::EmbedResponse* response) {
  auto call = std::make_shared<EmbedCall>(context, response);
  call->KeepUntilDone();
  call->ReadTrace(rpc);
  call->Start(message, id, rpc.deadline(), context.access.Check(rpc, Role::kUser));
  GiveToGrpc(call.get());
  return call.get();
}

}  // namespace fla
