// What kernels/device.cc asks of the CUDA backend. Free of CUDA headers, so that any compiler takes
// it. Every function that can fail throws DeviceError with the name of the failing call.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "kernels/device.h"

namespace fla::cuda {

// Number of usable GPUs; 0 also where there is no driver. Does not throw.
int DeviceCount() noexcept;
// "0000:1b:00.0"
std::string PciBusId(int index);

// Device memory, aligned to at least 256 bytes. bytes > 0.
void* AllocateDevice(int index, size_t bytes);
void FreeDevice(int index, void* data) noexcept;
size_t FreeDeviceMemory(int index);

// Page-locked host memory. bytes > 0.
void* AllocateHost(int index, size_t bytes);
void FreeHost(int index, void* data) noexcept;

// A stream on GPU `index` with its handles and workspaces.
Stream::CudaContext* CreateContext(int index);
void DestroyContext(Stream::CudaContext* context) noexcept;
size_t WorkspaceBytes(const Stream::CudaContext& context);  // of device memory

// In the order of the context's stream. Host memory may be pageable: when CopyToDevice returns,
// `source` may be reused; what CopyToHost writes is valid after Synchronize. bytes > 0.
void CopyToDevice(Stream::CudaContext& context, void* target, const void* source, size_t bytes);
void CopyToHost(Stream::CudaContext& context, void* target, const void* source, size_t bytes);
void ZeroDevice(Stream::CudaContext& context, void* target, size_t bytes);
void Synchronize(Stream::CudaContext& context);

// A cudaEvent_t or a recorded graph behind void*.
void* CreateEvent(int index);
void DestroyEvent(void* event) noexcept;
void RecordEvent(Stream::CudaContext& context, void* event);
void WaitForEvent(void* event);
bool EventIsPassed(void* event);

void SetTuning(Stream::CudaContext& context, bool tuning);

void* Record(Stream::CudaContext& context, const std::function<void()>& queue_ops);
void ReplayGraph(Stream::CudaContext& context, void* graph);
void DestroyGraph(void* graph) noexcept;

}  // namespace fla::cuda
