#include "server/model_registry.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>
#include <stdexcept>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "model/config.h"
#include "model/state_pool.h"
#include "server/slot_count.h"

namespace fla {
namespace {

// A line a second at most, so that a long load is seen to move.
std::function<void(double)> LogProgress(const std::string& name) {
  return [name, last = Clock::now()](double done) mutable {
    const Clock::time_point now = Clock::now();
    if (now - last < std::chrono::seconds(1)) return;
    last = now;
    spdlog::info("model {}: {:.0f} % loaded", name, done * 100);
  };
}

int MaxBatchTokens(const ModelOptions& options, Device device) {
  if (options.max_batch_tokens > 0) return options.max_batch_tokens;
  return std::max(options.slots, device.is_cuda() ? 4096 : 512);
}

// As many as the config wants and the device's free memory holds.
int CountSlots(const ModelOptions& options, Model& model) {
  const Device device = model.stream().device();
  const int most = std::min(device.is_cuda() ? kMostSlots : 64, MaxBatchTokens(options, device));
  const int wanted = options.slots > 0 ? options.slots : most;
  const SlotDemand demand = DemandOf(model, wanted, options.state_dtype);
  const int slots = FitSlots(demand);
  spdlog::info("model {}: {:.1f} MB of memory are free, a slot takes {:.1f} MB", options.name,
               demand.free_bytes / 1e6, demand.bytes_per_slot / 1e6);
  if (slots < wanted) {
    spdlog::warn("model {}: slots: wanted {}, got {}: more do not fit", options.name, wanted,
                 slots);
  }
  return slots;
}

std::unique_ptr<ServedModel> Load(const ModelOptions& options, const Limits& limits,
                                  Metrics& metrics) {
  auto served = std::make_unique<ServedModel>();
  served->options = options;
  const Clock::time_point begin = Clock::now();
  const Device device = ParseDevice(options.device);
  served->device = NameOf(device);
  if (options.state_dtype != DType::kF32 && !device.is_cuda()) {
    throw std::runtime_error("state_dtype: wanted f32 on a CPU, got " +
                             std::string(NameOf(options.state_dtype)));
  }
  spdlog::info("model {}: loading {} to {} in {}", options.name, options.path.string(),
               served->device, NameOf(options.dtype));
  served->tokenizer = Tokenizer::Load(options.path);

  LoadOptions load;
  load.path = options.path;
  load.device = device;
  load.dtype = options.dtype;
  load.max_batch_tokens = MaxBatchTokens(options, device);
  load.progress = LogProgress(options.name);
  std::unique_ptr<Model> model = Model::Load(load);

  EngineOptions engine;
  engine.slots = CountSlots(options, *model);
  engine.max_batch_tokens = load.max_batch_tokens;
  engine.state_dtype = options.state_dtype;
  engine.launch_ahead = device.is_cuda();
  engine.max_queued_requests = limits.max_queued_requests;
  engine.max_queued_tokens = limits.max_queued_tokens;
  served->metrics = &metrics.ForModel(options.name);
  served->engine =
      std::make_unique<Engine>(std::move(model), served->tokenizer, engine, *served->metrics);

  const Model& loaded = served->engine->model();
  served->state_bytes_per_slot = StateBytesPerSlot(loaded.config(), options.state_dtype);
  served->load_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  served->metrics->SetLoaded(served->load_seconds, {loaded.config().model_type, served->device,
                                                    NameOf(options.dtype), loaded.parameters()});
  spdlog::info(
      "model {}: {}, {:.1f}M parameters, {:.1f} MB of weights, {} slots of {:.1f} kB state, "
      "loaded in {:.2f} s",
      options.name, loaded.config().model_type, loaded.parameters() / 1e6,
      loaded.weight_bytes() / 1e6, engine.slots, served->state_bytes_per_slot / 1e3,
      served->load_seconds);
  return served;
}

}  // namespace

void CheckModel(const ModelOptions& options) {
  ParseDevice(options.device);
  LoadModelConfig(options.path);
  Tokenizer::Load(options.path);
}

ModelRegistry::ModelRegistry(const ServerOptions& options, Metrics& metrics)
    : default_model_(options.default_model) {
  for (const ModelOptions& model : options.models) {
    try {
      models_.push_back(Load(model, options.limits, metrics));
    } catch (const std::exception& error) {
      throw std::runtime_error("model " + model.name + ": " + error.what());
    }
  }
}

absl::StatusOr<ServedModel*> ModelRegistry::Find(const std::string& name) const {
  const std::string& wanted = name.empty() ? default_model_ : name;
  std::string names;
  for (const auto& model : models_) {
    if (model->options.name == wanted) return model.get();
    absl::StrAppend(&names, names.empty() ? "" : ", ", model->options.name);
  }
  return absl::NotFoundError(
      absl::StrCat("model: wanted one of ", names, ", got ", absl::CEscape(name.substr(0, 128))));
}

bool ModelRegistry::Healthy() const {
  for (const auto& model : models_) {
    if (!model->engine->healthy()) return false;
  }
  return true;
}

bool ModelRegistry::Drain(Clock::time_point deadline) const {
  std::vector<std::future<bool>> drains;
  for (const auto& model : models_) {
    drains.push_back(std::async(std::launch::async,
                                [&model, deadline] { return model->engine->Drain(deadline); }));
  }
  bool complete = true;
  for (std::future<bool>& drain : drains) complete = drain.get() && complete;
  return complete;
}

}  // namespace fla
