// Numbers in global memory by which warps of one kernel tell each other how far they are.
//
// They are looked at by loads that do not empty the first cache, as acquiring ones do: what a
// number promises is then read past that cache (CopyAsync), behind the branch that found it.
//
// The emulator of bench/cuda replaces this file.
#pragma once

namespace fla::cuda {

__device__ __forceinline__ int Take(int* counter) { return atomicAdd(counter, 1); }

__device__ __forceinline__ int Look(const int* place) {
  int number;
  asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(number) : "l"(place) : "memory");
  return number;
}

// Who finds the number finds all that this thread, and those it has synchronised with, wrote.
__device__ __forceinline__ void Publish(int* place, int number) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(place), "r"(number) : "memory");
}
// Where nothing was written.
__device__ __forceinline__ void Put(int* place, int number) {
  asm volatile("st.relaxed.gpu.global.s32 [%0], %1;" ::"l"(place), "r"(number) : "memory");
}

// Lets other warps have the issue slots for some time.
__device__ __forceinline__ void Pause() { __nanosleep(500); }

}  // namespace fla::cuda
