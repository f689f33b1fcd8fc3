// A stand-in for libnvidia-ml.so.1 with two GPUs: the first tells everything, the second, like a
// MIG slice, only its name and its memory. FLA_FAKE_NVML=none: the library finds no GPU.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace {

constexpr int kSuccess = 0, kInvalidArgument = 2, kNotSupported = 3, kNotFound = 6;

uintptr_t NumberOf(void* device) { return reinterpret_cast<uintptr_t>(device) - 1; }

template <typename T, typename Value>
int FirstOnly(void* device, T* target, Value value) {
  if (NumberOf(device) != 0) return kNotSupported;
  *target = value;
  return kSuccess;
}

bool HasGpus() {
  const char* mode = std::getenv("FLA_FAKE_NVML");
  return mode == nullptr || std::string_view(mode) != "none";
}

struct Utilization {
  unsigned gpu, memory;
};
struct Memory {
  unsigned long long total, free, used;
};
struct PciInfo {
  char bus_id_legacy[16];
  unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
  char bus_id[32];
};

}  // namespace

extern "C" {

int nvmlInit_v2() { return kSuccess; }
int nvmlShutdown() { return kSuccess; }

int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = HasGpus() ? 2 : 0;
  return kSuccess;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (index > 1) return kInvalidArgument;
  *device = reinterpret_cast<void*>(uintptr_t{index} + 1);
  return kSuccess;
}

int nvmlDeviceGetName(void* device, char* name, unsigned length) {
  std::strncpy(name, NumberOf(device) == 0 ? "Fake H200" : "Fake slice", length);
  return kSuccess;
}

int nvmlDeviceGetUUID(void* device, char* uuid, unsigned length) {
  std::strncpy(uuid, NumberOf(device) == 0 ? "GPU-0" : "MIG-1", length);
  return kSuccess;
}

int nvmlDeviceGetPciInfo_v3(void* device, PciInfo* info) {
  if (NumberOf(device) != 0) return kNotFound;
  std::memset(info, 0, sizeof(*info));
  std::strcpy(info->bus_id, "00000000:1B:00.0");
  return kSuccess;
}

int nvmlDeviceGetUtilizationRates(void* device, Utilization* rates) {
  return FirstOnly(device, rates, Utilization{75, 50});
}

int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  const unsigned long long total = NumberOf(device) == 0 ? 150000000000 : 20000000000;
  *memory = {total, total / 4 * 3, total / 4};
  return kSuccess;
}

int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  return FirstOnly(device, milliwatts, 412500u);
}

int nvmlDeviceGetEnforcedPowerLimit(void* device, unsigned* milliwatts) {
  return FirstOnly(device, milliwatts, 700000u);
}

// Grows with each call, as a counter does.
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  static unsigned long long energy = 0;
  energy += 1500;
  return FirstOnly(device, millijoules, energy);
}

int nvmlDeviceGetTemperature(void* device, unsigned, unsigned* celsius) {
  return FirstOnly(device, celsius, 61u);
}

int nvmlDeviceGetClockInfo(void* device, unsigned, unsigned* megahertz) {
  return FirstOnly(device, megahertz, 1980u);
}

}  // extern "C"
