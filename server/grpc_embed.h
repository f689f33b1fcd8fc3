// The reactor of Embed.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>

#include "server/engine_call.h"

namespace fla {

// Makes a call that lives until its RPC is done.
grpc::ServerUnaryReactor* StartEmbedCall(const CallContext& context, uint64_t id,
                                         const grpc::CallbackServerContext& rpc,
                                         const v1::EmbedRequest& message,
                                         v1::EmbedResponse* response);

}  // namespace fla
