// The gRPC service fla.v1.Control.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <utility>

#include "fla/v1/control.grpc.pb.h"
#include "server/grpc_access.h"
#include "server/model_registry.h"

namespace fla {

// Thread safety: all methods may be called from any thread.
class ControlService final : public v1::Control::CallbackService {
 public:
  // `drain` begins to drain the server, and returns at once; it is called at most once.
  struct Draining {
    std::function<void()> drain;
    double timeout_seconds = 0;
  };
  // `registry` and `access` must outlive this.
  ControlService(ModelRegistry& registry, const GrpcAccess& access, Draining draining)
      : registry_(registry),
        access_(access),
        draining_(std::move(draining)),
        started_(Clock::now()) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* rpc,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* rpc,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* rpc,
                                      const v1::LoadModelRequest* request,
                                      v1::LoadModelResponse* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* rpc,
                                        const v1::UnloadModelRequest* request,
                                        v1::UnloadModelResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* rpc, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

 private:
  ModelRegistry& registry_;
  const GrpcAccess& access_;
  const Draining draining_;
  std::atomic<bool> drain_began_ = false;
  const Clock::time_point started_;
};

// What `fla-server --version` and GetServerInfo say.
const char* ServerVersion();
const char* ServerBuild();  // "cpu" or "cpu+cuda"

}  // namespace fla
