// What NVIDIA's management library (NVML) says about the machine's GPUs.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace fla {

// One GPU at one moment. What the GPU does not tell (a MIG slice has no utilisation) is absent.
struct GpuReading {
  int index = 0;  // NVML's; all GPUs of the machine (of the container) count
  std::string name;
  std::string uuid;
  std::string device;  // "cuda:0", as for ParseDevice; empty where this process cannot use it
  // Parts, 0 to 1, of the last sampling period (up to a second) in which a kernel ran, and in which
  // memory was read or written.
  std::optional<double> utilization;
  std::optional<double> memory_utilization;
  std::optional<double> memory_used_bytes;  // by all processes and the driver
  std::optional<double> memory_total_bytes;
  std::optional<double> power_watts;
  std::optional<double> power_limit_watts;
  std::optional<double> energy_joules;  // since the driver was loaded
  std::optional<double> temperature_celsius;
  std::optional<double> sm_clock_hertz;
};

// Thread safety: Read may be called from any thread.
class GpuTelemetry {
 public:
  // Loads the library at run time: a program that uses this needs no driver to start. Null where
  // there is no library, or one that finds no GPU.
  static std::unique_ptr<GpuTelemetry> Open(const std::string& library = "libnvidia-ml.so.1");
  ~GpuTelemetry();

  // All GPUs. Takes some milliseconds each, and nothing of the GPUs' own time.
  std::vector<GpuReading> Read() const;

 private:
  struct Nvml;
  explicit GpuTelemetry(std::unique_ptr<Nvml> nvml);
  std::unique_ptr<Nvml> nvml_;
};

}  // namespace fla
