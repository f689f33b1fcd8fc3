#include "kernels/gpu_telemetry.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace fla {
namespace {

TEST(GpuTelemetry, IsAbsentWithoutTheLibrary) {
  EXPECT_EQ(GpuTelemetry::Open("libno-such-library.so.1"), nullptr);
}

TEST(GpuTelemetry, IsAbsentWhereTheLibraryLacksTheFunctions) {
  EXPECT_EQ(GpuTelemetry::Open("libc.so.6"), nullptr);
}

TEST(GpuTelemetry, IsAbsentWithoutGpus) {
  setenv("FLA_FAKE_NVML", "none", 1);
  EXPECT_EQ(GpuTelemetry::Open(FLA_FAKE_NVML_LIBRARY), nullptr);
  unsetenv("FLA_FAKE_NVML");
}

TEST(GpuTelemetry, ReadsWhatEachGpuTells) {
  const auto telemetry = GpuTelemetry::Open(FLA_FAKE_NVML_LIBRARY);
  ASSERT_NE(telemetry, nullptr);
  const std::vector<GpuReading> readings = telemetry->Read();
  ASSERT_EQ(readings.size(), 2u);

  const GpuReading& whole = readings[0];
  EXPECT_EQ(whole.index, 0);
  EXPECT_EQ(whole.name, "Fake H200");
  EXPECT_EQ(whole.uuid, "GPU-0");
  EXPECT_EQ(whole.utilization, 0.75);
  EXPECT_EQ(whole.memory_utilization, 0.5);
  EXPECT_EQ(whole.memory_used_bytes, 37.5e9);
  EXPECT_EQ(whole.memory_total_bytes, 150e9);
  EXPECT_EQ(whole.power_watts, 412.5);
  EXPECT_EQ(whole.power_limit_watts, 700);
  EXPECT_EQ(whole.temperature_celsius, 61);
  EXPECT_EQ(whole.sm_clock_hertz, 1.98e9);
  EXPECT_LT(whole.energy_joules, telemetry->Read()[0].energy_joules);

  const GpuReading& slice = readings[1];
  EXPECT_EQ(slice.name, "Fake slice");
  EXPECT_EQ(slice.memory_total_bytes, 20e9);
  EXPECT_FALSE(slice.utilization || slice.power_watts || slice.energy_joules);
}

}  // namespace
}  // namespace fla
