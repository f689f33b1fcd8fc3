// The reactors of Generate and GenerateStream.
#pragma once

#include <grpcpp/grpcpp.h>

#include "server/engine_call.h"

namespace fla {

// The two make a call that lives until its RPC is done.
grpc::ServerUnaryReactor* StartUnaryCall(const CallContext& context, uint64_t id,
                                         const grpc::CallbackServerContext& rpc,
                                         const v1::GenerateRequest& message,
                                         v1::GenerateResponse* response);
grpc::ServerWriteReactor<v1::GenerateStreamResponse>* StartStreamedCall(
    const CallContext& context, uint64_t id, const grpc::CallbackServerContext& rpc,
    const v1::GenerateRequest& message);

}  // namespace fla
