#include "server/inference_service.h"

#include "server/grpc_answer.h"
#include "server/translate.h"

namespace fla {
namespace {

absl::Status RunTokenize(const ModelRegistry& registry, const v1::TokenizeRequest& request,
                         v1::TokenizeResponse& response) {
  const absl::StatusOr<ServedModel*> model = registry.Find(request.model());
  if (!model.ok()) return model.status();
  const bool add_special = !request.has_add_special_tokens() || request.add_special_tokens();
  const Tokenizer& tokenizer = *(*model)->tokenizer;
  const absl::StatusOr<std::vector<int>> ids =
      EncodeText("text", request.text(), tokenizer, add_special);
  if (!ids.ok()) return ids.status();
  for (const int id : *ids) {
    response.add_ids(id);
    response.add_tokens(tokenizer.TokenBytes(id));
  }
  return absl::OkStatus();
}

absl::Status RunDetokenize(const ModelRegistry& registry, const v1::DetokenizeRequest& request,
                           v1::DetokenizeResponse& response) {
  const absl::StatusOr<ServedModel*> model = registry.Find(request.model());
  if (!model.ok()) return model.status();
  const Tokenizer& tokenizer = *(*model)->tokenizer;
  if (absl::Status status =
          CheckTokenIds("ids", request.ids().data(), request.ids_size(), tokenizer.vocab_size());
      !status.ok()) {
    return status;
  }
  response.set_text(tokenizer.Decode({request.ids().begin(), request.ids().end()},
                                     request.skip_special_tokens()));
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* InferenceService::Generate(grpc::CallbackServerContext* rpc,
                                                     const v1::GenerateRequest* request,
                                                     v1::GenerateResponse* response) {
  return StartUnaryCall(context_, next_id_++, *rpc, *request, response);
}

grpc::ServerWriteReactor<v1::GenerateStreamResponse>* InferenceService::GenerateStream(
    grpc::CallbackServerContext* rpc, const v1::GenerateRequest* request) {
  return StartStreamedCall(context_, next_id_++, *rpc, *request);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* rpc,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return Answer(rpc, context_.access, Role::kUser,
                [&] { return RunTokenize(context_.registry, *request, *response); });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* rpc,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return Answer(rpc, context_.access, Role::kUser,
                [&] { return RunDetokenize(context_.registry, *request, *response); });
}

}  // namespace fla
