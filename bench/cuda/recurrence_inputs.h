// Device-resident inputs of one recurrence call, for the checker and the benchmark beside this.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda::bench {

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Copies to the device and waits for the bytes to be there: of pageable memory, cudaMemcpy itself
// may return before, and the streams of the kernels under test do not wait for it.
inline void Upload(void* target, const void* source, size_t bytes) {
  Check(cudaMemcpy(target, source, bytes, cudaMemcpyHostToDevice), "upload");
  Check(cudaDeviceSynchronize(), "upload");
}

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    if (size > 0) Check(cudaMalloc(&data_, size * sizeof(T)), "cudaMalloc");
  }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    if (size_ > 0) Upload(data_, host.data(), size_ * sizeof(T));
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  size_t size() const { return size_; }
  std::vector<T> Download() const {
    std::vector<T> host(size_);
    Check(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return host;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

// out[i] = mean + deviation * a normal number, a hash of (seed, i).
template <typename T>
__global__ void FillNormalKernel(T* out, int64_t count, float mean, float deviation, float maximum,
                                 uint32_t seed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  uint64_t x = (static_cast<uint64_t>(seed) << 40) + i + 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  x ^= x >> 31;
  const float u = ((x >> 40) + 0.5f) * 0x1p-24f, w = ((x & 0xffffff) + 0.5f) * 0x1p-24f;
  const float normal = sqrtf(-2.0f * logf(u)) * cospif(2.0f * w);
  out[i] = static_cast<T>(fminf(mean + deviation * normal, maximum));
}
template <typename T>
void FillNormal(T* out, int64_t count, float mean, float deviation, float maximum, uint32_t seed) {
  if (count == 0) return;
  FillNormalKernel<<<static_cast<unsigned>((count + 255) / 256), 256>>>(out, count, mean, deviation,
                                                                        maximum, seed);
  CheckLaunch("FillNormalKernel");
}

template <typename T>
constexpr DType DTypeOf() {
  return sizeof(T) == 4 ? DType::kF32 : DType::kBF16;
}

}  // namespace fla::cuda::bench
