// What kernels/device.cc asks of the CUDA backend. Free of CUDA headers, so that any compiler takes
// it. Every function that can fail throws DeviceError with the name of the failing call.
#pragma once

#include <cstddef>

#include "kernels/device.h"

namespace fla::cuda {

// Number of usable GPUs; 0 also where there is no driver. Does not throw.
int DeviceCount() noexcept;

// Device memory, aligned to at least 256 bytes. bytes > 0.
void* AllocateDevice(int index, size_t bytes);
void FreeDevice(int index, void* data) noexcept;
size_t FreeDeviceMemory(int index);

// A stream on GPU `index` with its handles and workspaces.
Stream::CudaContext* CreateContext(int index);
void DestroyContext(Stream::CudaContext* context) noexcept;

// In the order of the context's stream. Host memory may be pageable: when CopyToDevice returns,
// `source` may be reused; what CopyToHost writes is valid after Synchronize. bytes > 0.
void CopyToDevice(Stream::CudaContext& context, void* target, const void* source, size_t bytes);
void CopyToHost(Stream::CudaContext& context, void* target, const void* source, size_t bytes);
void ZeroDevice(Stream::CudaContext& context, void* target, size_t bytes);
void Synchronize(Stream::CudaContext& context);

}  // namespace fla::cuda
