#include "server/grpc_embed.h"

#include "server/grpc_unary.h"

namespace fla {
namespace {

class EmbedCall final : public UnaryCall {
 public:
  EmbedCall(const CallContext& context, v1::EmbedResponse* response)
      : UnaryCall(context, Totals::kInputs), response_(response) {}

 private:
  void FillResponse() override {
    FillOrigin(*response_);
    for (int i = 0; i < choices_; ++i) response_->add_embeddings();
    while (!buffer_.empty()) {
      const Event event = buffer_.Take();
      FillEmbedding(event, hidden_size_, *response_->mutable_embeddings(event.choice));
    }
    FillTotals(*response_);
  }

  v1::EmbedResponse* response_;  // gRPC's; not touched after Finish
};

}  // namespace

grpc::ServerUnaryReactor* StartEmbedCall(const CallContext& context, uint64_t id,
                                         const grpc::CallbackServerContext& rpc,
                                         const v1::EmbedRequest& message,
                                         v1::EmbedResponse* response) {
  return StartCall<EmbedCall>(context, id, rpc, message, response);
}

}  // namespace fla
