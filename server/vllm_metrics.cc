#include "server/vllm_metrics.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "server/scraped_families.h"

namespace fla {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct Alias {
  std::string_view ours;
  const char* vllm;
};

// vLLM has renamed some of its metrics; routers of either age find theirs.
constexpr Alias kAliases[] = {
    {"fla_requests_running", "vllm:num_requests_running"},
    {"fla_requests_waiting", "vllm:num_requests_waiting"},
    {"fla_requests_total", "vllm:request_success_total"},
    {"fla_prompt_tokens_total", "vllm:prompt_tokens_total"},
    {"fla_generation_tokens_total", "vllm:generation_tokens_total"},
    {"fla_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
    {"fla_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"},
    {"fla_inter_token_latency_seconds", "vllm:time_per_output_token_seconds"},
    {"fla_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"},
    {"fla_request_queue_time_seconds", "vllm:request_queue_time_seconds"},
    {"fla_request_prefill_time_seconds", "vllm:request_prefill_time_seconds"},
    {"fla_request_decode_time_seconds", "vllm:request_decode_time_seconds"},
    {"fla_request_prompt_tokens", "vllm:request_prompt_tokens"},
    {"fla_request_generation_tokens", "vllm:request_generation_tokens"},
    {"fla_batch_tokens", "vllm:iteration_tokens_total"},
};

// What our label says in vLLM's words; nothing for a series that vLLM has none of.
std::optional<ClientMetric::Label> Translate(const ClientMetric::Label& label) {
  if (label.name == "model") return ClientMetric::Label{"model_name", label.value};
  if (label.name != "finish_reason") return label;
  if (label.value == "stop" || label.value == "length") {
    return ClientMetric::Label{"finished_reason", label.value};
  }
  if (label.value == "cancelled") return ClientMetric::Label{"finished_reason", "abort"};
  return std::nullopt;
}

MetricFamily Renamed(const MetricFamily& family, const char* name) {
  MetricFamily renamed = MakeFamily(name, "As " + family.name + ".", family.type);
  for (const ClientMetric& metric : family.metric) {
    ClientMetric copy = metric;
    copy.label.clear();
    for (const ClientMetric::Label& label : metric.label) {
      if (std::optional<ClientMetric::Label> translated = Translate(label)) {
        copy.label.push_back(*std::move(translated));
      }
    }
    if (copy.label.size() == metric.label.size()) renamed.metric.push_back(std::move(copy));
  }
  return renamed;
}

std::map<std::string, double> GaugesByModel(const std::vector<MetricFamily>& families,
                                            std::string_view name) {
  std::map<std::string, double> values;
  for (const MetricFamily& family : families) {
    if (family.name != name) continue;
    for (const ClientMetric& metric : family.metric) {
      for (const ClientMetric::Label& label : metric.label) {
        if (label.name == "model") values[label.value] = metric.gauge.value;
      }
    }
  }
  return values;
}

// A sequence's memory here is its slot, as it is its share of the cache there.
void AddCacheUsage(std::vector<MetricFamily>& target, const std::vector<MetricFamily>& ours) {
  const auto used = GaugesByModel(ours, "fla_state_slots_used");
  const auto total = GaugesByModel(ours, "fla_state_slots_total");
  for (const char* name : {"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}) {
    target.push_back(
        MakeFamily(name, "Part of the state slots in use, 0 to 1.", MetricType::Gauge));
    for (const auto& [model, slots] : total) {
      const auto found = used.find(model);
      const double in_use = found == used.end() ? 0 : found->second;
      AddSample(target.back(), slots > 0 ? in_use / slots : 0, {{"model_name", model}});
    }
  }
}

}  // namespace

VllmMetrics::VllmMetrics(std::shared_ptr<const prometheus::Registry> registry)
    : registry_(std::move(registry)) {}

std::vector<MetricFamily> VllmMetrics::Collect() const {
  const std::vector<MetricFamily> ours = registry_->Collect();
  std::vector<MetricFamily> families;
  for (const Alias& alias : kAliases) {
    const auto found = std::find_if(ours.begin(), ours.end(), [&](const MetricFamily& family) {
      return family.name == alias.ours;
    });
    if (found != ours.end()) families.push_back(Renamed(*found, alias.vllm));
  }
  AddCacheUsage(families, ours);
  return families;
}

}  // namespace fla
