// The GPU's clock: one for all multiprocessors, in steps of 32 ns on sm_90.
#pragma once

#include "kernels/device_time.h"

namespace fla::cuda {

__device__ __forceinline__ DeviceTime Now() {
  DeviceTime nanoseconds;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(nanoseconds)::"memory");
  return nanoseconds;
}

}  // namespace fla::cuda
