#include "server/control_service.h"

#include "server/grpc_answer.h"

namespace fla {
namespace {

void Describe(const ServedModel& served, v1::ModelInfo& info) {
  const Model& model = served.engine->model();
  const ModelConfig& config = model.config();
  info.set_name(served.options.name);
  info.set_model_type(config.model_type);
  info.set_parameters(model.parameters());
  info.set_vocab_size(config.vocab_size);
  info.set_hidden_size(config.hidden_size);
  info.set_num_layers(config.num_layers);
  info.set_device(served.device);
  info.set_dtype(NameOf(model.dtype()));
  info.set_weight_bytes(model.weight_bytes());
  info.set_state_bytes_per_slot(served.state_bytes_per_slot);
  info.set_slots_total(served.engine->slots_total());
  info.set_slots_used(served.engine->slots_used());
  info.set_load_seconds(served.load_seconds);
  info.mutable_eos_token_ids()->Add(config.eos_token_ids.begin(), config.eos_token_ids.end());
}

}  // namespace

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
    response->set_default_model(registry_.default_model());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ControlService::ListModels(grpc::CallbackServerContext* rpc,
                                                     const v1::ListModelsRequest*,
                                                     v1::ListModelsResponse* response) {
  return Answer(rpc, access_, Role::kUser, [&] {
    for (const auto& model : registry_.models()) Describe(*model, *response->add_models());
    return absl::OkStatus();
  });
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
