#include <cuda_runtime.h>

#include <atomic>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/context.h"
#include "kernels/cuda/device_cuda.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/linear_plans.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/step_collector.h"

namespace fla {
namespace {

// Of each GPU, whether a stream has taken CudaContext::waits_alone.
std::atomic<bool> waiter_taken[64];

bool TakeWaiter(int index) {
  return index < static_cast<int>(std::size(waiter_taken)) && !waiter_taken[index].exchange(true);
}

}  // namespace

Stream::CudaContext::CudaContext(int device_index) : index(device_index) {
  cuda::Check(cudaSetDevice(index), "cudaSetDevice");
  cuda::Check(cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, index),
              "cudaDeviceGetAttribute");
  int major = 0;
  cuda::Check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index),
              "cudaDeviceGetAttribute");
  can_chain = major >= 9;
  workspace = Buffer({Device::Kind::kCuda, index}, kWorkspaceBytes);
  bias = Buffer({Device::Kind::kCuda, index}, kMaxBiasLength * SizeOf(DType::kBF16));
  arrivals = Buffer({Device::Kind::kCuda, index}, sizeof(unsigned));
  cuda::Check(cudaMemset(arrivals.data(), 0, arrivals.size()), "cudaMemset");
  linears = std::make_unique<cuda::LinearPlans>();
  try {
    Create();
  } catch (...) {
    Destroy();
    throw;
  }
}

void Stream::CudaContext::Create() {
  int last = 0, first = 0;
  cuda::Check(cudaDeviceGetStreamPriorityRange(&last, &first), "cudaDeviceGetStreamPriorityRange");
  const auto create = [](cudaStream_t& created, int priority) {
    cuda::Check(cudaStreamCreateWithPriority(&created, cudaStreamNonBlocking, priority),
                "cudaStreamCreateWithPriority");
  };
  create(stream, first);
  create(beside, last);
  for (cudaEvent_t* event : {&forked, &joined}) {
    cuda::Check(cudaEventCreateWithFlags(event, cudaEventDisableTiming),
                "cudaEventCreateWithFlags");
  }
  cuda::Check(cublasLtCreate(&cublas), "cublasLtCreate");
  waits_alone = TakeWaiter(index);
}

void Stream::CudaContext::Destroy() noexcept {
  if (cublas != nullptr) cublasLtDestroy(cublas);
  for (const cudaEvent_t event : {forked, joined}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  for (const cudaStream_t created : {beside, stream}) {
    if (created != nullptr) cudaStreamDestroy(created);
  }
}

Stream::CudaContext::~CudaContext() {
  cudaSetDevice(index);
  cudaStreamSynchronize(beside);
  cudaStreamSynchronize(stream);  // the workspaces go next
  Destroy();
  if (waits_alone) waiter_taken[index] = false;
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
  if (context.collector != nullptr) context.collector->Flush(context.stream);
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

std::string PciBusId(int index) {
  char text[32] = {};
  Check(cudaDeviceGetPCIBusId(text, sizeof(text), index), "cudaDeviceGetPCIBusId");
  return text;
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

void* AllocateHost(int index, size_t bytes) {
  Check(cudaSetDevice(index), "cudaSetDevice");
  void* data = nullptr;
  Check(cudaMallocHost(&data, bytes), "cudaMallocHost");
  return data;
}

void FreeHost(int index, void* data) noexcept {
  cudaSetDevice(index);
  cudaFreeHost(data);
}

Stream::CudaContext* CreateContext(int index) { return new Stream::CudaContext(index); }

void DestroyContext(Stream::CudaContext* context) noexcept { delete context; }

size_t WorkspaceBytes(const Stream::CudaContext& context) {
  return context.workspace.size() + context.bias.size();
}

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

void* CreateEvent(int index) {
  Check(cudaSetDevice(index), "cudaSetDevice");
  cudaEvent_t event = nullptr;
  Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return event;
}

void DestroyEvent(void* event) noexcept { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }

void RecordEvent(Stream::CudaContext& context, void* event) {
  Check(cudaEventRecord(static_cast<cudaEvent_t>(event), context.stream), "cudaEventRecord");
}

void WaitForEvent(void* event) {
  Check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "cudaEventSynchronize");
}

bool EventIsPassed(void* event) {
  const cudaError_t error = cudaEventQuery(static_cast<cudaEvent_t>(event));
  if (error == cudaErrorNotReady) {
    cudaGetLastError();  // it is told there, too
    return false;
  }
  Check(error, "cudaEventQuery");
  return true;
}

void SetTuning(Stream::CudaContext& context, bool tuning) {
  context.tuning = tuning;
  if (!tuning) context.linears->EndMeasuring();
}

namespace {

// A graph, and what its kernels read besides their parameters.
struct RecordedGraph {
  cudaGraphExec_t executable = nullptr;
  std::vector<StepProgram> programs;

  ~RecordedGraph() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
  }
};

}  // namespace

void* Record(Stream::CudaContext& context, const std::function<void()>& queue_ops) {
  Check(cudaSetDevice(context.index), "cudaSetDevice");
  auto recorded = std::make_unique<RecordedGraph>();
  Check(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
  cudaGraph_t graph = nullptr;
  context.chained = context.can_chain;
  if (IsHopper()) {
    context.collector = std::make_unique<StepCollector>(Device{Device::Kind::kCuda, context.index},
                                                        context.num_multiprocessors);
  }
  try {
    queue_ops();
    if (context.collector != nullptr) {
      context.collector->Flush(context.stream);
      recorded->programs = context.collector->TakePrograms();
    }
    context.chained = false;
    context.collector = nullptr;
  } catch (...) {
    context.chained = false;
    context.collector = nullptr;
    cudaStreamEndCapture(context.stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  Check(cudaStreamEndCapture(context.stream, &graph), "cudaStreamEndCapture");
  const cudaError_t status = cudaGraphInstantiate(&recorded->executable, graph, 0);
  cudaGraphDestroy(graph);
  Check(status, "cudaGraphInstantiate");
  for (const StepProgram& program : recorded->programs) program.Upload(context.stream);
  Check(cudaGraphUpload(recorded->executable, context.stream), "cudaGraphUpload");
  return recorded.release();
}

void ReplayGraph(Stream::CudaContext& context, void* graph) {
  Check(cudaGraphLaunch(static_cast<RecordedGraph*>(graph)->executable, context.stream),
        "cudaGraphLaunch");
}

void DestroyGraph(void* graph) noexcept { delete static_cast<RecordedGraph*>(graph); }

}  // namespace cuda
}  // namespace fla
