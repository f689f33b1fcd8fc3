#include "server/model_info.h"

#include <set>

#include "server/sequence.h"

namespace fla {
namespace {

void DescribeOptions(const ModelOptions& options, v1::ModelInfo& info) {
  info.set_name(options.name);
  info.mutable_aliases()->Add(options.aliases.begin(), options.aliases.end());
  info.set_device(options.device);
  info.set_dtype(NameOf(options.dtype));
  info.set_on_demand(!options.preload);
  info.set_evictable(!options.pinned);
}

// The versions of a model that are not served: those that come, go, or failed to come.
void DescribeOthers(const ModelTable& table, const std::string& name, const ModelOptions* options,
                    v1::ListModelsResponse& response) {
  const auto add = [&](v1::ModelState state, const std::string& version) -> v1::ModelInfo& {
    v1::ModelInfo& info = *response.add_models();
    info.set_name(name);
    if (options != nullptr) DescribeOptions(*options, info);
    info.set_state(state);
    info.set_version(version);
    return info;
  };
  for (const auto& loading : table.loading) {
    if (loading->name != name) continue;
    add(loading->warming ? v1::MODEL_STATE_WARMING : v1::MODEL_STATE_LOADING, loading->version)
        .set_load_fraction(loading->fraction);
  }
  for (const ModelTable::Draining& draining : table.draining) {
    if (draining.name != name) continue;
    if (const auto served = draining.served.lock()) {
      Describe(served->options, *served, v1::MODEL_STATE_DRAINING, *response.add_models());
    }
  }
  for (const ModelTable::Failure& failure : table.failures) {
    if (failure.name != name) continue;
    add(v1::MODEL_STATE_FAILED, failure.version).set_failure(failure.reason);
  }
}

}  // namespace

void Describe(const ModelOptions& options, const ServedModel& served, v1::ModelState state,
              v1::ModelInfo& info) {
  const Model& model = served.engine->model();
  const ModelConfig& config = model.config();
  DescribeOptions(options, info);
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
  const std::vector<int> eos = EosTokens(config, *served.tokenizer);
  info.mutable_eos_token_ids()->Add(eos.begin(), eos.end());
  info.set_version(served.version);
  info.set_state(state);
  if (state == v1::MODEL_STATE_SERVING && !served.engine->healthy()) {
    info.set_state(v1::MODEL_STATE_FAILED);
    info.set_failure("the model's device has failed");
  }
}

void Describe(const ModelTable& table, v1::ListModelsResponse& response) {
  std::set<std::string> described;
  for (const ModelTable::Entry& entry : table.entries) {
    const std::string& name = entry.options->name;
    described.insert(name);
    if (entry.served != nullptr) {
      Describe(*entry.options, *entry.served, v1::MODEL_STATE_SERVING, *response.add_models());
    }
    const int before = response.models_size();
    DescribeOthers(table, name, entry.options.get(), response);
    if (entry.served == nullptr && response.models_size() == before) {
      v1::ModelInfo& info = *response.add_models();
      DescribeOptions(*entry.options, info);
      info.set_state(v1::MODEL_STATE_UNLOADED);
    }
  }
  std::set<std::string> others;
  for (const auto& loading : table.loading) others.insert(loading->name);
  for (const auto& draining : table.draining) others.insert(draining.name);
  for (const auto& failure : table.failures) others.insert(failure.name);
  for (const std::string& name : others) {
    if (described.count(name) == 0) DescribeOthers(table, name, nullptr, response);
  }
  response.set_config_error(table.config_error);
}

void HideReasons(v1::ListModelsResponse& response) {
  constexpr char kHidden[] = "see the server's log";
  for (v1::ModelInfo& info : *response.mutable_models()) {
    if (!info.failure().empty()) info.set_failure(kHidden);
  }
  if (!response.config_error().empty()) response.set_config_error(kHidden);
}

}  // namespace fla
