// Stands in for kernels/cuda/chained.cuh under the emulator, which runs one kernel after the other.
#pragma once

#include <utility>

#include "bench/cuda/recurrence_emulator/emulator.h"

namespace fla::cuda {

extern char shared[];

inline void BeginNextKernel() {}
inline void AwaitPreviousKernel() {}
inline char* DynamicShared() { return shared; }
inline void PrefetchToL2(const void*) {}
inline void PrefetchStateToL2(const void*) {}
inline uint4 LoadOnce(const void* source) {
  if (reinterpret_cast<uintptr_t>(source) % 16 != 0) std::abort();
  return *static_cast<const uint4*>(source);
}
template <typename T>
T LoadBy(uint64_t, const T* source) {
  if (reinterpret_cast<uintptr_t>(source) % sizeof(T) != 0) std::abort();
  return *source;
}

template <typename... Parameters, typename... Arguments>
cudaError_t LaunchChained(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t,
                          cudaStream_t, bool, Arguments&&... arguments) {
  emulator::Launch([=] { kernel(arguments...); }, grid, block);
  return cudaSuccess;
}

// One block after the other: a kernel runs whose first block needs no other, and so on.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchCooperative(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t,
                              cudaStream_t, Arguments&&... arguments) {
  emulator::Launch([=] { kernel(arguments...); }, grid, block);
  return cudaSuccess;
}

}  // namespace fla::cuda
