// The CPU's clock as a device's.
#pragma once

#include <chrono>

#include "kernels/device_time.h"

namespace fla::cpu {

inline DeviceTime Now() {
  const auto since_boot = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since_boot).count();
}

}  // namespace fla::cpu
