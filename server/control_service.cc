#include "server/control_service.h"

#include "server/grpc_answer.h"
#include "server/model_info.h"

namespace fla {

const char* ServerVersion() { return FLA_VERSION; }

const char* ServerBuild() {
#ifdef FLA_WITH_CUDA
  return "cpu+cuda";
#else
  return "cpu";
#endif
}

grpc::ServerUnaryReactor* ControlService::GetServerInfo(grpc::CallbackServerContext* rpc,
                                                        const v1::GetServerInfoRequest*,
                                                        v1::GetServerInfoResponse* response) {
  return Answer(rpc, access_, Role::kUser, [&] {
    response->set_version(ServerVersion());
    response->set_build(ServerBuild());
    response->set_uptime_seconds(std::chrono::duration<double>(Clock::now() - started_).count());
    response->set_default_model(registry_.table()->default_model);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ControlService::ListModels(grpc::CallbackServerContext* rpc,
                                                     const v1::ListModelsRequest*,
                                                     v1::ListModelsResponse* response) {
  return Answer(rpc, access_, Role::kUser, [&] {
    Describe(*registry_.table(), *response);
    if (!access_.Check(*rpc, Role::kAdmin).ok()) HideReasons(*response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ControlService::LoadModel(grpc::CallbackServerContext* rpc,
                                                    const v1::LoadModelRequest* request,
                                                    v1::LoadModelResponse* response) {
  auto* const reactor = new UnaryAnswer;
  if (const absl::Status status = access_.Check(*rpc, Role::kAdmin); !status.ok()) {
    reactor->End(status);
    return reactor;
  }
  registry_.Load(request->name(), [reactor, response](const absl::StatusOr<ModelLease>& lease) {
    if (lease.ok()) {
      Describe(*lease->options, *lease->served, v1::MODEL_STATE_SERVING,
               *response->mutable_model());
    }
    reactor->End(lease.status());
  });
  return reactor;
}

grpc::ServerUnaryReactor* ControlService::UnloadModel(grpc::CallbackServerContext* rpc,
                                                      const v1::UnloadModelRequest* request,
                                                      v1::UnloadModelResponse*) {
  return Answer(rpc, access_, Role::kAdmin, [&] { return registry_.Unload(request->name()); });
}

grpc::ServerUnaryReactor* ControlService::Drain(grpc::CallbackServerContext* rpc,
                                                const v1::DrainRequest*,
                                                v1::DrainResponse* response) {
  return Answer(rpc, access_, Role::kAdmin, [&] {
    response->set_timeout_seconds(draining_.timeout_seconds);
    if (!drain_began_.exchange(true)) draining_.drain();
    return absl::OkStatus();
  });
}

}  // namespace fla
