#include <cuda_runtime.h>

#include <cstring>
#include <string>

#include "kernels/cuda/context.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/linear_plans.h"

namespace fla {

Stream::CudaContext::CudaContext(int device_index) : index(device_index) {
  cuda::Check(cudaSetDevice(index), "cudaSetDevice");
  cuda::Check(cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, index),
              "cudaDeviceGetAttribute");
  workspace = Buffer({Device::Kind::kCuda, index}, kWorkspaceBytes);
  bias = Buffer({Device::Kind::kCuda, index}, kMaxBiasLength * SizeOf(DType::kBF16));
  linears = std::make_unique<cuda::LinearPlans>();
  cuda::Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
              "cudaStreamCreateWithFlags");
  const cublasStatus_t status = cublasLtCreate(&cublas);
  if (status != CUBLAS_STATUS_SUCCESS) {
    cudaStreamDestroy(stream);
    cuda::Check(status, "cublasLtCreate");
  }
}

Stream::CudaContext::~CudaContext() {
  cudaSetDevice(index);
  cudaStreamSynchronize(stream);  // the workspaces go next
  cublasLtDestroy(cublas);
  cudaStreamDestroy(stream);
}

namespace cuda {

void Check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that the next CheckLaunch does not blame its kernel
  throw DeviceError(std::string(call) + ": " + cudaGetErrorString(status) + " (" +
                    cudaGetErrorName(status) + ")");
}

void Check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw DeviceError(std::string(call) + ": " + cublasLtGetStatusString(status));
}

void CheckLaunch(const char* kernel) { Check(cudaGetLastError(), kernel); }

cudaStream_t MakeCurrent(Stream& stream) {
  Stream::CudaContext& context = *stream.cuda();
  Check(cudaSetDevice(context.index), "cudaSetDevice");
  return context.stream;
}

int DeviceCount() noexcept {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver is no error: forget it
    return 0;
  }
  return count;
}

void* AllocateDevice(int index, size_t bytes) {
  Check(cudaSetDevice(index), "cudaSetDevice");
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw DeviceError("allocating " + std::to_string(bytes) +
                      " bytes on cuda:" + std::to_string(index) + ": out of memory, " +
                      std::to_string(FreeDeviceMemory(index)) + " bytes are free");
  }
  Check(status, "cudaMalloc");
  return data;
}

void FreeDevice(int index, void* data) noexcept {
  cudaSetDevice(index);
  cudaFree(data);
}

size_t FreeDeviceMemory(int index) {
  Check(cudaSetDevice(index), "cudaSetDevice");
  size_t free = 0, total = 0;
  Check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free;
}

Stream::CudaContext* CreateContext(int index) { return new Stream::CudaContext(index); }

void DestroyContext(Stream::CudaContext* context) noexcept { delete context; }

void CopyToDevice(Stream::CudaContext& context, void* target, const void* source, size_t bytes) {
  // From pageable memory this returns once the source has been read, as the contract wants. Pinned
  // memory would be read later: its owner keeps it until Synchronize.
  Check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, context.stream),
        "cudaMemcpyAsync to the device");
}

void CopyToHost(Stream::CudaContext& context, void* target, const void* source, size_t bytes) {
  Check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, context.stream),
        "cudaMemcpyAsync to the host");
}

void ZeroDevice(Stream::CudaContext& context, void* target, size_t bytes) {
  Check(cudaMemsetAsync(target, 0, bytes, context.stream), "cudaMemsetAsync");
}

void Synchronize(Stream::CudaContext& context) {
  Check(cudaStreamSynchronize(context.stream), "cudaStreamSynchronize");
}

}  // namespace cuda
}  // namespace fla
