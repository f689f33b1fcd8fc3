// What a Stream holds on a GPU.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <memory>

#include "kernels/device.h"

namespace fla {
namespace cuda {
class LinearPlans;
class StepCollector;
}  // namespace cuda

// Thread safety: as Stream's, one thread at a time.
struct Stream::CudaContext {
  explicit CudaContext(int device_index);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  // Bytes of `workspace`: what NVIDIA recommends for Hopper.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  // Largest `out` of a Linear with a bias that must be rounded to bf16 first.
  static constexpr size_t kMaxBiasLength = size_t{1} << 19;

  int index = 0;
  int num_multiprocessors = 0;
  bool can_chain = false;  // the GPU can begin a kernel before the one before it has ended
  bool tuning = false;     // a Tuning lives
  // Kernels whose blocks wait for each other may begin block by block: no other stream's may, so
  // that no two of them keep each other out. One stream of a GPU at a time may say so.
  bool waits_alone = false;
  bool chained = false;  // kernels of chained.cuh shall: while a step is being recorded
  cudaStream_t stream = nullptr;
  // For what runs beside it, on multiprocessors that its kernels leave (prefill.h).
  cudaStream_t beside = nullptr;
  cudaEvent_t forked = nullptr, joined = nullptr;
  cublasLtHandle_t cublas = nullptr;
  Buffer workspace;  // of cuBLASLt, and of kernels between its products
  Buffer bias;       // [kMaxBiasLength] bf16: the bias of the call in flight
  Buffer arrivals;   // by which a kernel's blocks wait for each other (grid_barrier.cuh)
  std::unique_ptr<cuda::LinearPlans> linears;  // chosen algorithms
  // Of the step that is being recorded; null where there is none, or no GPU that could run it.
  std::unique_ptr<cuda::StepCollector> collector;

 private:
  void Create();
  void Destroy() noexcept;
};

namespace cuda {

// Makes the stream's GPU the calling thread's current one, which kernel launches need, and gives
// the cudaStream_t to launch on, with all that was collected before (step_collector.h) queued.
cudaStream_t MakeCurrent(Stream& stream);

}  // namespace cuda
}  // namespace fla
