// The GPUs of the machine as metrics: utilisation, memory, power, energy, temperature, clock.
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <memory>
#include <vector>

#include "kernels/gpu_telemetry.h"

namespace fla {

// Reads NVML at each scrape; no families at all where there is no GPU.
//
// Thread safety: all methods may be called from any thread.
class GpuMetrics : public prometheus::Collectable {
 public:
  // `telemetry` may be null.
  explicit GpuMetrics(std::unique_ptr<GpuTelemetry> telemetry);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::unique_ptr<GpuTelemetry> telemetry_;
};

}  // namespace fla
