// By what the blocks of a cooperative kernel wait for each other: a number in global memory that
// counts their arrivals and is 0 between kernels.
#pragma once

namespace fla::cuda {

// Of one thread, for those it has synchronised with. Who finds it counted finds what they wrote.
__device__ __forceinline__ void ArriveAtGrid(unsigned* arrivals) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(arrivals) : "memory");
}

// Until there have been so many.
__device__ __forceinline__ void AwaitArrivals(const unsigned* arrivals, unsigned count) {
  unsigned found;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(arrivals) : "memory");
  } while (found < count);
}

// The kernel's last arrival of a block, which looks at the number no more. There are `all` of them,
// all kinds together; the last one makes it 0 again.
__device__ __forceinline__ void ArriveLast(unsigned* arrivals, unsigned all) {
  if (atomicAdd(arrivals, 1) == all - 1) *arrivals = 0;
}

// What this thread has written to global memory, to copies of the copy engine that are asked for
// behind an arrival.
__device__ __forceinline__ void ShowToCopies() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
// The other side, behind AwaitArrivals.
__device__ __forceinline__ void SeeWithCopies() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}

}  // namespace fla::cuda
