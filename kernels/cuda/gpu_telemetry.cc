// Built with and without CUDA: NVML belongs to the driver, and is looked for at run time. Its
// functions are declared here as its documentation has them (NVML API reference, stable since
// driver 450), because a machine without CUDA has no nvml.h.
#include "kernels/gpu_telemetry.h"

#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <string_view>
#include <utility>

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/device_cuda.h"
#endif

namespace fla {
namespace {

using NvmlDevice = struct NvmlDeviceOpaque*;
constexpr int kNvmlSuccess = 0;
constexpr unsigned kTemperatureOfGpu = 0;
constexpr unsigned kClockOfSm = 1;

struct NvmlUtilization {
  unsigned gpu, memory;  // per cent
};
struct NvmlMemory {
  unsigned long long total, free, used;  // bytes
};
struct NvmlPciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];  // "00000000:1B:00.0"
};

// The names under which this process knows GPUs, with their PCI bus ids.
std::vector<std::pair<std::string, std::string>> UsableDevices() {
  std::vector<std::pair<std::string, std::string>> devices;
#ifdef FLA_WITH_CUDA
  for (int i = 0; i < cuda::DeviceCount(); ++i) {
    devices.emplace_back("cuda:" + std::to_string(i), cuda::PciBusId(i));
  }
#endif
  return devices;
}

// CUDA writes a domain of 4 digits, NVML one of 8; the rest is the same but for case.
bool SameBus(std::string_view a, std::string_view b) {
  constexpr size_t kLength = std::string_view("0000:00:00.0").size();
  if (a.size() < kLength || b.size() < kLength) return false;
  a.remove_prefix(a.size() - kLength);
  b.remove_prefix(b.size() - kLength);
  return std::equal(a.begin(), a.end(), b.begin(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

}  // namespace

struct GpuTelemetry::Nvml {
  explicit Nvml(void* opened) : library(opened) {}
  ~Nvml() {
    if (initialized) shutdown();
    dlclose(library);
  }

  // False where the library lacks a function that every supported driver has.
  bool Resolve();
  // Of all GPUs what does not change.
  bool FindDevices();

  template <typename Function>
  bool Find(Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    return function != nullptr;
  }

  void* const library;
  bool initialized = false;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*handle)(unsigned, NvmlDevice*) = nullptr;
  int (*name)(NvmlDevice, char*, unsigned) = nullptr;
  int (*uuid)(NvmlDevice, char*, unsigned) = nullptr;
  int (*pci_info)(NvmlDevice, NvmlPciInfo*) = nullptr;
  int (*utilization)(NvmlDevice, NvmlUtilization*) = nullptr;
  int (*memory)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*power)(NvmlDevice, unsigned*) = nullptr;             // milliwatts
  int (*power_limit)(NvmlDevice, unsigned*) = nullptr;       // milliwatts
  int (*energy)(NvmlDevice, unsigned long long*) = nullptr;  // millijoules
  int (*temperature)(NvmlDevice, unsigned, unsigned*) = nullptr;
  int (*clock)(NvmlDevice, unsigned, unsigned*) = nullptr;  // megahertz

  struct Gpu {
    NvmlDevice handle;
    GpuReading fixed;  // what does not change
  };
  std::vector<Gpu> gpus;
};

bool GpuTelemetry::Nvml::Resolve() {
  return Find(init, "nvmlInit_v2") && Find(shutdown, "nvmlShutdown") &&
         Find(count, "nvmlDeviceGetCount_v2") && Find(handle, "nvmlDeviceGetHandleByIndex_v2") &&
         Find(name, "nvmlDeviceGetName") && Find(uuid, "nvmlDeviceGetUUID") &&
         Find(pci_info, "nvmlDeviceGetPciInfo_v3") &&
         Find(utilization, "nvmlDeviceGetUtilizationRates") &&
         Find(memory, "nvmlDeviceGetMemoryInfo") && Find(power, "nvmlDeviceGetPowerUsage") &&
         Find(power_limit, "nvmlDeviceGetEnforcedPowerLimit") &&
         Find(energy, "nvmlDeviceGetTotalEnergyConsumption") &&
         Find(temperature, "nvmlDeviceGetTemperature") && Find(clock, "nvmlDeviceGetClockInfo");
}

bool GpuTelemetry::Nvml::FindDevices() {
  unsigned total = 0;
  if (count(&total) != kNvmlSuccess) return false;
  const auto usable = UsableDevices();
  for (unsigned i = 0; i < total; ++i) {
    Gpu gpu;
    if (handle(i, &gpu.handle) != kNvmlSuccess) continue;  // another's, or lost
    char text[96] = {};                                    // NVML's longest name
    gpu.fixed.index = static_cast<int>(i);
    if (name(gpu.handle, text, sizeof(text)) == kNvmlSuccess) gpu.fixed.name = text;
    if (uuid(gpu.handle, text, sizeof(text)) == kNvmlSuccess) gpu.fixed.uuid = text;
    NvmlPciInfo pci = {};
    if (pci_info(gpu.handle, &pci) == kNvmlSuccess) {
      for (const auto& [device, bus_id] : usable) {
        if (SameBus(bus_id, pci.bus_id)) gpu.fixed.device = device;
      }
    }
    gpus.push_back(std::move(gpu));
  }
  return !gpus.empty();
}

GpuTelemetry::GpuTelemetry(std::unique_ptr<Nvml> nvml) : nvml_(std::move(nvml)) {}
GpuTelemetry::~GpuTelemetry() = default;

std::unique_ptr<GpuTelemetry> GpuTelemetry::Open(const std::string& library) {
  void* const opened = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) return nullptr;
  auto nvml = std::make_unique<Nvml>(opened);
  if (!nvml->Resolve() || nvml->init() != kNvmlSuccess) return nullptr;
  nvml->initialized = true;
  if (!nvml->FindDevices()) return nullptr;
  return std::unique_ptr<GpuTelemetry>(new GpuTelemetry(std::move(nvml)));
}

std::vector<GpuReading> GpuTelemetry::Read() const {
  const Nvml& nvml = *nvml_;
  std::vector<GpuReading> readings;
  for (const Nvml::Gpu& gpu : nvml.gpus) {
    GpuReading reading = gpu.fixed;
    NvmlUtilization utilization = {};
    if (nvml.utilization(gpu.handle, &utilization) == kNvmlSuccess) {
      reading.utilization = utilization.gpu / 100.0;
      reading.memory_utilization = utilization.memory / 100.0;
    }
    NvmlMemory memory = {};
    if (nvml.memory(gpu.handle, &memory) == kNvmlSuccess) {
      reading.memory_used_bytes = static_cast<double>(memory.used);
      reading.memory_total_bytes = static_cast<double>(memory.total);
    }
    unsigned value = 0;
    if (nvml.power(gpu.handle, &value) == kNvmlSuccess) reading.power_watts = value / 1e3;
    if (nvml.power_limit(gpu.handle, &value) == kNvmlSuccess) {
      reading.power_limit_watts = value / 1e3;
    }
    unsigned long long millijoules = 0;
    if (nvml.energy(gpu.handle, &millijoules) == kNvmlSuccess) {
      reading.energy_joules = static_cast<double>(millijoules) / 1e3;
    }
    if (nvml.temperature(gpu.handle, kTemperatureOfGpu, &value) == kNvmlSuccess) {
      reading.temperature_celsius = value;
    }
    if (nvml.clock(gpu.handle, kClockOfSm, &value) == kNvmlSuccess) {
      reading.sm_clock_hertz = value * 1e6;
    }
    readings.push_back(std::move(reading));
  }
  return readings;
}

}  // namespace fla
