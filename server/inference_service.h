// The gRPC service fla.v1.Inference.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstdint>

#include "fla/v1/inference.grpc.pb.h"
#include "server/engine_call.h"

namespace fla {

// Answers on gRPC's callback threads, which tokenise; the models run on the engines'.
//
// Thread safety: all methods may be called from any thread.
class InferenceService final : public v1::Inference::CallbackService {
 public:
  explicit InferenceService(const CallContext& context) : context_(context) {
    context_.open_calls = &open_calls_;
  }

  // Calls of Generate, GenerateStream and Embed that gRPC is not done with.
  int open_calls() const { return open_calls_; }

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* rpc,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<v1::GenerateStreamResponse>* GenerateStream(
      grpc::CallbackServerContext* rpc, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* rpc, const v1::EmbedRequest* request,
                                  v1::EmbedResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* rpc,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* rpc,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  CallContext context_;  // constant
  std::atomic<int> open_calls_{0};
  std::atomic<uint64_t> next_id_{1};
};

}  // namespace fla
