#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

namespace fla {

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {
  auto& reloads = prometheus::BuildCounter()
                      .Name("fla_config_reload_total")
                      .Help(
                          "Times that the config file was read again, by result: success, or "
                          "failure where the old one goes on.")
                      .Register(*registry_);
  reloads_applied_ = &reloads.Add({{"result", "success"}});
  reloads_refused_ = &reloads.Add({{"result", "failure"}});
  reload_successful_ = &prometheus::BuildGauge()
                            .Name("fla_config_last_reload_successful")
                            .Help(
                                "1 if what is served is what the config file says, 0 if its "
                                "last edit was refused.")
                            .Register(*registry_)
                            .Add({});
  reload_successful_->Set(1);
}

Metrics::~Metrics() = default;

ModelMetrics& Metrics::ForModel(const std::string& name) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::unique_ptr<ModelMetrics>& metrics = models_[name];
  if (metrics == nullptr) metrics = std::make_unique<ModelMetrics>(*registry_, name);
  return *metrics;
}

void Metrics::SetBuild(const std::string& version, const std::string& backends) {
  prometheus::BuildGauge()
      .Name("fla_build_info")
      .Help("The running program; always 1.")
      .Register(*registry_)
      .Add({{"version", version}, {"backends", backends}})
      .Set(1);
}

void Metrics::CountConfigReload(bool applied) {
  (applied ? reloads_applied_ : reloads_refused_)->Increment();
  reload_successful_->Set(applied ? 1 : 0);
}

}  // namespace fla
