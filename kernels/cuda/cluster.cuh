// Blocks of a cluster (sm_90) and each other's shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fla::cuda {

// Waits for all threads of the cluster's blocks that have not ended, and lets them see what each
// wrote before. All lanes of a warp together.
__device__ __forceinline__ void SyncCluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

__device__ __forceinline__ void StoreShared(uint32_t address, float value) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

__device__ __forceinline__ float4 LoadShared(uint32_t address) {
  float4 value;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

// What lies at `address` of this block's shared memory, in that of another one, which has begun and
// not ended.
__device__ __forceinline__ float4 LoadFromBlock(int block, uint32_t address) {
  float4 value;
  asm volatile(
      "{ .reg .u32 a; mapa.shared::cluster.u32 a, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [a]; }"
      : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
      : "r"(address), "r"(block)
      : "memory");
  return value;
}

// Arrives on the barrier at the same address in a block's shared memory. Of this block's reads
// nothing need be told: what comes next is written by the copy engine.
__device__ __forceinline__ void ArriveAtBlock(int block, uint32_t barrier) {
  asm volatile(
      "{ .reg .u32 a; mapa.shared::cluster.u32 a, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [a]; }" ::"r"(barrier),
      "r"(block)
      : "memory");
}

}  // namespace fla::cuda
