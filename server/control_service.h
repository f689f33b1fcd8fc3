// The gRPC service fla.v1.Control.
#pragma once

#include <grpcpp/grpcpp.h>

#include "fla/v1/control.grpc.pb.h"
#include "server/model_registry.h"

namespace fla {

// Thread safety: all methods may be called from any thread.
class ControlService final : public v1::Control::CallbackService {
 public:
  // `registry` must outlive this.
  explicit ControlService(const ModelRegistry& registry)
      : registry_(registry), started_(Clock::now()) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* rpc,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* rpc,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  const ModelRegistry& registry_;
  const Clock::time_point started_;
};

// What `fla-server --version` and GetServerInfo say.
const char* ServerVersion();
const char* ServerBuild();  // "cpu" or "cpu+cuda"

}  // namespace fla
