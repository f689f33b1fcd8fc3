#include "server/metrics_endpoint.h"

#include <prometheus/exposer.h>
#include <prometheus/registry.h>

#include <exception>
#include <stdexcept>

#include "kernels/gpu_telemetry.h"
#include "server/gpu_metrics.h"
#include "server/process_metrics.h"
#include "server/vllm_metrics.h"

namespace fla {

MetricsEndpoint::MetricsEndpoint(const std::string& address, const Metrics& metrics,
                                 bool vllm_names) {
  constexpr size_t kThreads = 2;
  try {
    exposer_ = std::make_unique<prometheus::Exposer>(address, kThreads);
  } catch (const std::exception& error) {
    throw std::runtime_error("metrics_listen: cannot listen on " + address + ": " + error.what());
  }
  collected_.push_back(metrics.registry());
  collected_.push_back(std::make_shared<ProcessMetrics>());
  collected_.push_back(std::make_shared<GpuMetrics>(GpuTelemetry::Open()));
  if (vllm_names) collected_.push_back(std::make_shared<VllmMetrics>(metrics.registry()));
  for (const auto& collectable : collected_) exposer_->RegisterCollectable(collectable);
}

MetricsEndpoint::~MetricsEndpoint() = default;

int MetricsEndpoint::port() const { return exposer_->GetListeningPorts().front(); }

}  // namespace fla
