// What Prometheus reads: counters, gauges and histograms, prefix `fla_`.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "server/model_metrics.h"

namespace fla {

// The metrics of the server.
//
// Thread safety: all methods may be called from any thread.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  // What the endpoint that answers /metrics collects.
  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

  // The metrics of the model that the config calls `name`, made (all at zero) by the first call.
  // The reference is valid as long as this object.
  ModelMetrics& ForModel(const std::string& name);

  // The program's version and the backends it was built with; once, at start.
  void SetBuild(const std::string& version, const std::string& backends);
  // The config file was read again; `applied` is false where the old one goes on.
  void CountConfigReload(bool applied);

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Counter* reloads_applied_;
  prometheus::Counter* reloads_refused_;
  prometheus::Gauge* reload_successful_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<ModelMetrics>> models_;  // guarded by mutex_
};

}  // namespace fla
