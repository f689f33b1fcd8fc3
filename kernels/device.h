// Where memory lives and where kernels run: Device, Buffer, Stream.
#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels/tensor.h"

namespace fla {

struct Device {
  enum class Kind { kCpu, kCuda };
  Kind kind = Kind::kCpu;
  int index = 0;

  bool is_cuda() const { return kind == Kind::kCuda; }
  friend bool operator==(const Device&, const Device&) = default;
};

// "cpu", "cuda", "cuda:1" or "auto" (the first GPU if this build and machine have one, else the
// CPU). Throws std::invalid_argument that says what was wanted, or that this build has no CUDA, or
// that the machine has no such GPU.
Device ParseDevice(std::string_view name);
std::string NameOf(Device device);

// Thrown when the device fails (out of memory, a CUDA fault). The message names the call.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Owns `size` bytes on a device, aligned to 256 bytes, contents undefined until written.
// Movable, not copyable. Allocation failure throws DeviceError with the number of bytes.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Device device, size_t size);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }
  Device device() const { return device_; }

 private:
  Device device_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// An order of execution on a device, with what kernels need beside their arguments: threads on a
// CPU; a CUDA stream, a cuBLASLt handle and its workspace on a GPU. Every op takes one first, and
// ops on one Stream run in the order they were called. On a CPU they have finished on return; on a
// GPU they have been queued: call Synchronize before the host reads results.
//
// Thread safety: one thread at a time.
class Stream {
 public:
  explicit Stream(Device device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }

  // Scratch memory for the inside of one op: valid until the next call of Scratch. Growing
  // allocates and synchronises; callers that must not do so in the steady state call it once with
  // the largest size at load.
  void* Scratch(size_t bytes);

  void CopyToDevice(void* device_target, const void* host_source, size_t bytes);
  void CopyToHost(void* host_target, const void* device_source, size_t bytes);
  // Sets bytes of device memory to zero.
  void Zero(void* device_target, size_t bytes);
  void Synchronize();

  // The CUDA backend's part (cudaStream_t and handles), null on a CPU. Only kernels/cuda looks in.
  struct CudaContext;
  CudaContext* cuda() const { return cuda_.get(); }

 private:
  struct CudaContextDeleter {
    void operator()(CudaContext*) const;
  };
  Device device_;
  Buffer scratch_;
  std::unique_ptr<CudaContext, CudaContextDeleter> cuda_;
};

// Bytes of memory free on the device (for a CPU: available system memory).
size_t FreeMemory(Device device);

}  // namespace fla
