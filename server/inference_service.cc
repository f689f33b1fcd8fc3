#include "server/inference_service.h"

#include <spdlog/spdlog.h>

#include <exception>

#include "server/field_checks.h"
#include "server/grpc_answer.h"
#include "server/grpc_embed.h"
#include "server/grpc_generate.h"
#include "server/translate.h"

namespace fla {
namespace {

absl::Status RunTokenize(const Tokenizer& tokenizer, const v1::TokenizeRequest& request,
                         v1::TokenizeResponse& response) {
  const bool add_special = !request.has_add_special_tokens() || request.add_special_tokens();
  const absl::StatusOr<std::vector<int>> ids =
      EncodeText("text", request.text(), tokenizer, add_special);
  if (!ids.ok()) return ids.status();
  for (const int id : *ids) {
    response.add_ids(id);
    response.add_tokens(tokenizer.TokenBytes(id));
  }
  return absl::OkStatus();
}

absl::Status RunDetokenize(const Tokenizer& tokenizer, const v1::DetokenizeRequest& request,
                           v1::DetokenizeResponse& response) {
  if (absl::Status status =
          CheckTokenIds("ids", request.ids().data(), request.ids_size(), tokenizer.vocab_size());
      !status.ok()) {
    return status;
  }
  response.set_text(tokenizer.Decode({request.ids().begin(), request.ids().end()},
                                     request.skip_special_tokens()));
  return absl::OkStatus();
}

// Answers with what `run` says of the model's tokenizer, once the model is loaded. No exception
// leaves it.
template <typename Run>
grpc::ServerUnaryReactor* AnswerWithTokenizer(const CallContext& context, const std::string& model,
                                              grpc::CallbackServerContext* rpc, Run run) {
  auto* const reactor = new UnaryAnswer;
  const auto answer = [reactor, run](const absl::StatusOr<ModelLease>& lease) {
    absl::Status status = lease.status();
    try {
      if (status.ok()) status = run(*lease->served->tokenizer);
    } catch (const std::exception& error) {
      spdlog::error("a call failed: {}", error.what());
      status = absl::InternalError("the server has failed; its log says more");
    }
    reactor->End(status);
  };
  if (const absl::Status status = context.access.Check(*rpc, Role::kUser); !status.ok()) {
    answer(status);
  } else {
    context.registry.Acquire(model, nullptr, answer);
  }
  return reactor;
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

grpc::ServerUnaryReactor* InferenceService::Embed(grpc::CallbackServerContext* rpc,
                                                  const v1::EmbedRequest* request,
                                                  v1::EmbedResponse* response) {
  return StartEmbedCall(context_, next_id_++, *rpc, *request, response);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* rpc,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  return AnswerWithTokenizer(context_, request->model(), rpc,
                             [request, response](const Tokenizer& tokenizer) {
                               return RunTokenize(tokenizer, *request, *response);
                             });
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* rpc,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  return AnswerWithTokenizer(context_, request->model(), rpc,
                             [request, response](const Tokenizer& tokenizer) {
                               return RunDetokenize(tokenizer, *request, *response);
                             });
}

}  // namespace fla
