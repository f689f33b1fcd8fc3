#include "server/served_model.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "model/checkpoint_layout.h"
#include "model/safetensors.h"
#include "model/state_pool.h"
#include "server/model_version.h"
#include "server/slot_count.h"

namespace fla {
namespace {

constexpr int kSlotsOfCpu = 64;  // where the config says nothing
constexpr int kWarmUpTokens = 64;
constexpr int kAttempts = 3;  // while the files change under the load

void StopIfAbandoned(const LoadProgress& progress) {
  if (progress.abandoned) throw LoadAbandoned("the load was abandoned");
}

// Keeps `progress` and logs a line a second at most, so that a long load is seen to move.
std::function<void(double)> Report(LoadProgress& progress) {
  return [&progress, last = Clock::now()](double done) mutable {
    StopIfAbandoned(progress);
    progress.fraction = done;
    const Clock::time_point now = Clock::now();
    if (now - last < std::chrono::seconds(1)) return;
    last = now;
    spdlog::info("model {} ({}): {:.0f} % loaded", progress.name, progress.version, done * 100);
  };
}

int MaxBatchTokens(const ModelOptions& options, Device device) {
  if (options.max_batch_tokens > 0) return options.max_batch_tokens;
  return std::max(options.slots, device.is_cuda() ? 4096 : 512);
}

// Of a batch in which nothing decodes: the most of all batches. On a GPU twice as many tokens take
// less than twice the time, and no stream waits for them.
int MaxPrefillTokens(const ModelOptions& options, Device device) {
  const bool says = options.max_prefill_tokens > 0 || options.max_batch_tokens > 0;
  const int wanted = says ? options.max_prefill_tokens : (device.is_cuda() ? 16384 : 0);
  return std::max(wanted, MaxBatchTokens(options, device));
}

// What a CPU has no kernels for.
void RequireStates(const ModelOptions& options, Device device) {
  if (device.is_cuda()) return;
  if (options.state_dtype != DType::kF32) {
    throw std::runtime_error(std::string("state_dtype: wanted f32 on a CPU, got ") +
                             NameOf(options.state_dtype));
  }
  if (options.state_replay != 0) {
    throw std::runtime_error("state_replay: wanted 0 on a CPU, got " +
                             std::to_string(options.state_replay));
  }
}

// Where the config says one of them and the other's default does not go with it.
void RequireBatches(const ModelOptions& options, Device device) {
  const int least = MaxBatchTokens(options, device), given = options.max_prefill_tokens;
  if (given == 0 || given >= least) return;
  throw std::runtime_error("max_prefill_tokens: wanted at least max_batch_tokens (" +
                           std::to_string(least) + "), got " + std::to_string(given));
}

// Names and shapes, by the headers of the files.
void RequireWeights(const ModelOptions& options) {
  const ModelConfig config = LoadModelConfig(options.path);
  std::vector<std::string> problems;
  Model::CheckWeights(config, OpenCheckpoint(options.path, config), options.dtype,
                      options.weight_dtype, problems);
  if (problems.empty()) return;
  const std::string more = problems.size() == 1 ? "" : " (fla-server --validate says what else)";
  throw std::runtime_error(problems.front() + more);
}

// What the config wants of the states, as far as the device has kernels for it.
StateFormat StatesOf(const ModelOptions& options, Model& model) {
  StateFormat states = {options.state_dtype, options.state_replay};
  if (states.replay > 0 && !TakesReplay(model.stream(), model.config())) {
    spdlog::warn("model {}: state_replay: wanted {}, got 0: no kernels for its heads on this GPU",
                 options.name, states.replay);
    states.replay = 0;
  }
  return states;
}

// As many as the config wants and the device's free memory holds.
int CountSlots(const ModelOptions& options, StateFormat states, Model& model) {
  const Device device = model.stream().device();
  const int most =
      std::min(device.is_cuda() ? kMostSlots : kSlotsOfCpu, MaxBatchTokens(options, device));
  const int wanted = options.slots > 0 ? options.slots : most;
  const SlotDemand demand = DemandOf(model, wanted, states);
  const int slots = FitSlots(demand);
  spdlog::info("model {}: {:.1f} MB of memory are free, a slot takes {:.1f} MB", options.name,
               demand.free_bytes / 1e6, demand.bytes_per_slot / 1e6);
  if (slots < wanted) {
    spdlog::warn("model {}: slots: wanted {}, got {}: more do not fit", options.name, wanted,
                 slots);
  }
  return slots;
}

// Runs the batch on states of its own; throws if the logits, or else the hidden state, that it
// wants are not finite.
void Run(Model& model, StatePool& pool, const Batch& batch) {
  const ForwardResult result = model.Forward(batch, pool);
  const Matrix& row = result.logits.present() ? result.logits : result.hidden;
  std::vector<float> host(static_cast<size_t>(row.cols));
  model.stream().CopyToHost(host.data(), row.data, host.size() * sizeof(float));
  model.stream().Synchronize();
  if (!std::all_of(host.begin(), host.end(), [](float x) { return std::isfinite(x); })) {
    throw std::runtime_error(
        "warm-up: wanted finite logits, got NaN or infinity: are the weights "
        "whole?");
  }
}

// A prompt and a step: the first of each takes memory and finds what is broken before a request
// does. A model without a vocabulary takes no steps.
void WarmUp(Model& model, StateFormat states, int max_batch_tokens) {
  StatePool pool(model.stream(), model.config(), 1, states);
  const int tokens = std::min(kWarmUpTokens, max_batch_tokens);
  const int vocab = model.config().vocab_size;
  Batch prompt;
  prompt.slots = {pool.Acquire(model.stream())};
  prompt.cu_seqlens = {0, tokens};
  prompt.positions = {0};
  if (vocab == 0) {
    prompt.tokens.assign(tokens, 0);
    prompt.vector_rows = {{0, tokens}};
    prompt.vectors.assign(static_cast<size_t>(tokens) * model.config().embed_dim, 1.0f);
    prompt.hidden_rows = {tokens - 1};
    return Run(model, pool, prompt);
  }
  for (int i = 0; i < tokens; ++i) prompt.tokens.push_back(i * 31 % vocab);
  prompt.logits_rows = {tokens - 1};
  Run(model, pool, prompt);

  Batch step;
  step.slots = prompt.slots;
  step.tokens = {1 % vocab};
  step.cu_seqlens = {0, 1};
  step.positions = {tokens};
  step.num_decode = 1;
  step.logits_rows = {0};
  Run(model, pool, step);
}

// Models that take vectors can do without a tokenizer.
std::unique_ptr<Tokenizer> LoadTokenizer(const std::filesystem::path& folder) {
  const bool may_be_missing = LoadModelConfig(folder).embed_dim > 0;
  return may_be_missing && !Tokenizer::IsIn(folder) ? Tokenizer::None() : Tokenizer::Load(folder);
}

std::unique_ptr<ServedModel> LoadOnce(const ModelOptions& options, const Limits& limits,
                                      Metrics& metrics, LoadProgress& progress) {
  const Clock::time_point begin = Clock::now();
  auto served = std::make_unique<ServedModel>();
  served->options = options;
  served->version = ModelVersion(options);
  served->key = LoadKey(options, served->version);
  served->last_used = begin.time_since_epoch().count();
  const Device device = ParseDevice(options.device);
  served->device = NameOf(device);
  spdlog::info("model {} ({}): loading {} to {} in {}", options.name, served->version,
               options.path.string(), served->device, NameOf(options.dtype));
  RequireWithinRoot(options);
  served->tokenizer = LoadTokenizer(options.path);
  served->chat = chat::ChatTemplates::Load(options.path);
  // The model can do without: text and token_ids are answered, chat is refused.
  if (const std::string problem = served->chat->problem(); !problem.empty()) {
    spdlog::warn("model {}: chat is refused: {}", options.name, problem);
  }
  StopIfAbandoned(progress);

  LoadOptions load;
  load.path = options.path;
  load.device = device;
  load.dtype = options.dtype;
  load.weight_dtype = options.weight_dtype;
  load.max_batch_tokens = MaxPrefillTokens(options, device);
  load.progress = Report(progress);
  const Clock::time_point reading = Clock::now();
  std::unique_ptr<Model> model = Model::Load(load);
  spdlog::info("model {} ({}): {:.1f} MB of weights read in {:.2f} s", options.name,
               served->version, model->weight_bytes() / 1e6,
               std::chrono::duration<double>(Clock::now() - reading).count());
  progress.fraction = 1;
  progress.warming = true;
  StopIfAbandoned(progress);
  const StateFormat states = StatesOf(options, *model);
  WarmUp(*model, states, load.max_batch_tokens);

  EngineOptions engine;
  engine.slots = CountSlots(options, states, *model);
  engine.max_batch_tokens = MaxBatchTokens(options, device);
  engine.max_prefill_tokens = load.max_batch_tokens;
  engine.states = states;
  engine.launch_ahead = device.is_cuda();
  engine.max_queued_requests = limits.max_queued_requests;
  engine.max_queued_tokens = limits.max_queued_tokens;
  served->metrics = &metrics.ForModel(options.name);
  served->state_bytes_per_slot = StateBytesPerSlot(model->config(), states);
  served->bytes = model->weight_bytes() + engine.slots * served->state_bytes_per_slot;
  served->engine =
      std::make_unique<Engine>(std::move(model), served->tokenizer, engine, *served->metrics);
  served->load_seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return served;
}

}  // namespace

ModelLabels ServedModel::labels() const {
  const Model& model = engine->model();
  return {model.config().model_type, device, NameOf(model.dtype()), model.parameters(), version};
}

GenerationDefaults SamplingDefaults(const ModelLease& lease) {
  GenerationDefaults defaults = lease.served->engine->config().generation;
  const GenerationDefaults& own = lease.options->sampling;
  if (own.temperature) defaults.temperature = own.temperature;
  if (own.top_k) defaults.top_k = own.top_k;
  if (own.top_p) defaults.top_p = own.top_p;
  if (own.min_p) defaults.min_p = own.min_p;
  if (own.repetition_penalty) defaults.repetition_penalty = own.repetition_penalty;
  return defaults;
}

void CheckModel(const ModelOptions& options) {
  RequireWithinRoot(options);
  const Device device = ParseDevice(options.device);
  RequireStates(options, device);
  RequireBatches(options, device);
  RequireWeights(options);
  LoadTokenizer(options.path);
  chat::ChatTemplates::Load(options.path);
}

int64_t FootprintOf(const ModelOptions& options) {
  const Device device = ParseDevice(options.device);
  RequireStates(options, device);
  const ModelConfig config = LoadModelConfig(options.path);
  int64_t bytes = 0;
  if (options.weight_dtype == DType::kF8E4M3 && device.is_cuda()) {
    std::vector<std::string> problems;  // which the load will name
    const WeightSizes sizes = Model::CheckWeights(config, OpenCheckpoint(options.path, config),
                                                  options.dtype, options.weight_dtype, problems);
    bytes = sizes.bytes;
  } else {
    const Checkpoint checkpoint = Checkpoint::Open(options.path);
    for (const auto& [_, tensor] : checkpoint.tensors()) {
      bytes += tensor.elements * static_cast<int64_t>(SizeOf(options.dtype));
    }
  }
  // On a GPU the states take what is left, down to one slot.
  const int slots = options.slots > 0 ? options.slots : device.is_cuda() ? 1 : kSlotsOfCpu;
  return bytes + slots * StateBytesPerSlot(config, {options.state_dtype, options.state_replay});
}

std::unique_ptr<ServedModel> LoadServedModel(const ModelOptions& options, const Limits& limits,
                                             Metrics& metrics, LoadProgress& progress) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    std::unique_ptr<ServedModel> served = LoadOnce(options, limits, metrics, progress);
    if (ModelVersion(options) == served->version) {
      const Model& model = served->engine->model();
      spdlog::info(
          "model {} ({}): {}, {:.1f}M parameters, {:.1f} MB of weights, {} slots of {:.1f} kB "
          "state, loaded in {:.2f} s",
          options.name, served->version, model.config().model_type, model.parameters() / 1e6,
          model.weight_bytes() / 1e6, served->engine->slots_total(),
          served->state_bytes_per_slot / 1e3, served->load_seconds);
      return served;
    }
    spdlog::warn("model {}: its files changed during the load; once more", options.name);
    progress.fraction = 0;
    progress.warming = false;
  }
  throw std::runtime_error(options.path.string() + ": the files keep changing during the load");
}

}  // namespace fla
