#include "server/gpu_metrics.h"

#include <optional>
#include <string>
#include <utility>

#include "server/scraped_families.h"

namespace fla {
namespace {

using prometheus::MetricType;

struct Quantity {
  const char* name;
  const char* help;
  MetricType type;
  std::optional<double> GpuReading::*value;
};

constexpr Quantity kQuantities[] = {
    {"fla_gpu_utilization_ratio", "Part of the last second or less in which a kernel ran.",
     MetricType::Gauge, &GpuReading::utilization},
    {"fla_gpu_memory_utilization_ratio",
     "Part of the last second or less in which device memory was read or written.",
     MetricType::Gauge, &GpuReading::memory_utilization},
    {"fla_gpu_memory_used_bytes", "Device memory in use, by all processes and the driver.",
     MetricType::Gauge, &GpuReading::memory_used_bytes},
    {"fla_gpu_memory_total_bytes", "Device memory there is.", MetricType::Gauge,
     &GpuReading::memory_total_bytes},
    {"fla_gpu_power_watts", "Power drawn.", MetricType::Gauge, &GpuReading::power_watts},
    {"fla_gpu_power_limit_watts", "Power at which the GPU throttles.", MetricType::Gauge,
     &GpuReading::power_limit_watts},
    {"fla_gpu_energy_joules_total", "Energy used since the driver was loaded.", MetricType::Counter,
     &GpuReading::energy_joules},
    {"fla_gpu_temperature_celsius", "Temperature of the chip.", MetricType::Gauge,
     &GpuReading::temperature_celsius},
    {"fla_gpu_sm_clock_hertz", "Clock of the multiprocessors.", MetricType::Gauge,
     &GpuReading::sm_clock_hertz},
};

}  // namespace

GpuMetrics::GpuMetrics(std::unique_ptr<GpuTelemetry> telemetry)
    : telemetry_(std::move(telemetry)) {}

std::vector<prometheus::MetricFamily> GpuMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  if (telemetry_ == nullptr) return families;
  const std::vector<GpuReading> readings = telemetry_->Read();

  families.push_back(
      MakeFamily("fla_gpu_info",
                 "A GPU of this machine; always 1. `device` is its name in the config, if this "
                 "process can use it.",
                 MetricType::Gauge));
  for (const GpuReading& gpu : readings) {
    AddSample(families.back(), 1,
              {{"gpu", std::to_string(gpu.index)},
               {"device", gpu.device},
               {"name", gpu.name},
               {"uuid", gpu.uuid}});
  }
  for (const Quantity& quantity : kQuantities) {
    prometheus::MetricFamily family = MakeFamily(quantity.name, quantity.help, quantity.type);
    for (const GpuReading& gpu : readings) {
      const std::optional<double>& value = gpu.*quantity.value;
      if (value.has_value()) AddSample(family, *value, {{"gpu", std::to_string(gpu.index)}});
    }
    if (!family.metric.empty()) families.push_back(std::move(family));
  }
  return families;
}

}  // namespace fla
