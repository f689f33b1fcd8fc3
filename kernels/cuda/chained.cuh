// Kernels that begin before the one before them has ended (programmatic dependent launch, sm_90):
// they fetch what that one does not write, then wait for it. Between the small kernels of a decode
// step, memory never falls silent.
//
// A chained kernel calls BeginNextKernel and AwaitPreviousKernel in every thread of every block,
// the latter before it reads or writes anything that an earlier kernel of the chain writes or
// reads. What it may read before: weights, and states, which one kernel of a step touches alone.
//
// The emulator of bench/cuda replaces this file.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

namespace fla::cuda {

// The next kernel's blocks may start as this one's leave room for them.
__device__ __forceinline__ void BeginNextKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns when all kernels before have ended and what they wrote can be read.
__device__ __forceinline__ void AwaitPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The shared memory whose size the launch gives, aligned as the copy engine wants it.
__device__ __forceinline__ char* DynamicShared() {
  extern __shared__ __align__(128) char memory[];
  return memory;
}

// 16 bytes that are read once: they do not push others out of the first cache.
__device__ __forceinline__ uint4 LoadOnce(const void* source) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(source));
  return x;
}

// Four floats, or four bf16, by a cache policy (bulk_copy.cuh); not kept in the first cache.
__device__ __forceinline__ float4 LoadBy(uint64_t policy, const float4* source) {
  float4 x;
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.f32 {%0, %1, %2, %3}, [%4], %5;"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "l"(source), "l"(policy));
  return x;
}
__device__ __forceinline__ uint2 LoadBy(uint64_t policy, const uint2* source) {
  uint2 x;
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;"
               : "=r"(x.x), "=r"(x.y)
               : "l"(source), "l"(policy));
  return x;
}

// Begins to fetch what will be read soon.
__device__ __forceinline__ void PrefetchToL2(const void* source) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(source));
}

// The same of what will be written back a little later.
__device__ __forceinline__ void PrefetchStateToL2(const void* source) {
  asm volatile("prefetch.global.L2::evict_last [%0];" ::"l"(source));
}

// What a launch says of a kernel besides its arguments. `config` points into it: it stays where it
// was made.
struct LaunchDescription {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2];

  LaunchDescription(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
  }
  LaunchDescription(const LaunchDescription&) = delete;
  LaunchDescription& operator=(const LaunchDescription&) = delete;

  cudaLaunchAttributeValue& Add(cudaLaunchAttributeID id) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute = {};
    attribute.id = id;
    return attribute.val;
  }
  void AddCluster(dim3 cluster) {
    cudaLaunchAttributeValue& value = Add(cudaLaunchAttributeClusterDimension);
    value.clusterDim.x = cluster.x;
    value.clusterDim.y = cluster.y;
    value.clusterDim.z = cluster.z;
  }
};

// In clusters of `cluster` blocks; otherwise as LaunchChained.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchChainedClusters(void (*kernel)(Parameters...), dim3 grid, dim3 cluster,
                                  dim3 block, size_t shared, cudaStream_t stream, bool chained,
                                  Arguments&&... arguments) {
  LaunchDescription launch(grid, block, shared, stream);
  if (chained) {
    launch.Add(cudaLaunchAttributeProgrammaticStreamSerialization)
        .programmaticStreamSerializationAllowed = 1;
  }
  if (cluster.x * cluster.y * cluster.z > 1) launch.AddCluster(cluster);
  return cudaLaunchKernelEx(&launch.config, kernel, std::forward<Arguments>(arguments)...);
}

// `chained`: this kernel begins early. A kernel that reads states before it waits: only where the
// one before it in the stream is of the same recorded step (or none is), so that no state is still
// being written. One that waits first of all, or reads nothing but weights before: wherever the GPU
// can.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchChained(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                          cudaStream_t stream, bool chained, Arguments&&... arguments) {
  return LaunchChainedClusters(kernel, grid, dim3(1), block, shared, stream, chained,
                               std::forward<Arguments>(arguments)...);
}

// Of a kernel whose blocks wait for each other: either all of them run or none does.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchCooperativeClusters(void (*kernel)(Parameters...), dim3 grid, dim3 cluster,
                                      dim3 block, size_t shared, cudaStream_t stream,
                                      Arguments&&... arguments) {
  LaunchDescription launch(grid, block, shared, stream);
  launch.Add(cudaLaunchAttributeCooperative).cooperative = 1;
  if (cluster.x * cluster.y * cluster.z > 1) launch.AddCluster(cluster);
  return cudaLaunchKernelEx(&launch.config, kernel, std::forward<Arguments>(arguments)...);
}
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchCooperative(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                              cudaStream_t stream, Arguments&&... arguments) {
  return LaunchCooperativeClusters(kernel, grid, dim3(1), block, shared, stream,
                                   std::forward<Arguments>(arguments)...);
}

// How many clusters of such blocks the current GPU runs at once.
template <typename... Parameters>
int MostClusters(void (*kernel)(Parameters...), int cluster, int threads, size_t shared) {
  LaunchDescription launch(dim3(cluster), dim3(threads), shared, nullptr);
  launch.AddCluster(dim3(cluster));
  int clusters = 0;
  const cudaError_t status = cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch.config);
  return status == cudaSuccess ? clusters : 0;
}

}  // namespace fla::cuda
