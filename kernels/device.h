// Where memory lives and where kernels run: Device, Buffer, Stream.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

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
  // the largest size at load. Ops inside a Recording must have run once before: it keeps the
  // address, and memory that a recording has seen is not freed before the stream.
  void* Scratch(size_t bytes);

  void CopyToDevice(void* device_target, const void* host_source, size_t bytes);
  void CopyToHost(void* host_target, const void* device_source, size_t bytes);
  // Sets bytes of device memory to zero.
  void Zero(void* device_target, size_t bytes);
  void Synchronize();

  // Device memory that the stream holds for the inside of ops.
  size_t workspace_bytes() const;

  // The CUDA backend's part (cudaStream_t and handles), null on a CPU. Only kernels/cuda looks in.
  struct CudaContext;
  CudaContext* cuda() const { return cuda_.get(); }

 private:
  friend class Recording;
  struct CudaContextDeleter {
    void operator()(CudaContext*) const;
  };
  Device device_;
  Buffer scratch_;
  bool scratch_is_recorded_ = false;
  std::vector<Buffer> recorded_scratch_;  // outgrown
  bool recording_ = false;
  std::unique_ptr<CudaContext, CudaContextDeleter> cuda_;
};

// Host memory that a Stream's copies reach without staging: page-locked for a GPU, so that a copy
// from or to it is only queued. Its owner keeps what a queued copy reads until a Fence says that it
// is done. Movable, not copyable. Allocation failure throws DeviceError.
class HostBuffer {
 public:
  HostBuffer() = default;
  HostBuffer(Device device, size_t size);
  ~HostBuffer();
  HostBuffer(HostBuffer&& other) noexcept;
  HostBuffer& operator=(HostBuffer&& other) noexcept;

  char* data() const { return static_cast<char*>(data_); }
  size_t size() const { return size_; }

 private:
  Device device_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// A place in a stream's order that the host can wait for.
//
// Thread safety: one thread at a time.
class Fence {
 public:
  explicit Fence(Device device);
  ~Fence();
  Fence(Fence&& other) noexcept;
  Fence& operator=(Fence&& other) noexcept;

  // Here: after all that the stream was given so far.
  void Record(Stream& stream);
  // Returns when the device has passed the place; at once if none was recorded. Throws DeviceError
  // if what was queued before it has failed.
  void Wait();
  // Whether Wait would return at once. Throws as that does.
  bool IsPassed() const;

 private:
  void* event_ = nullptr;  // cudaEvent_t; null on a CPU
};

// Ops recorded once and queued again by one call: a CUDA graph. Pointers and sizes are those of the
// recording.
//
// Thread safety: as the stream's.
class Recording {
 public:
  // False on a CPU.
  static bool Supported(Device device) { return device.is_cuda(); }

  // Runs `queue_ops`, which must only queue ops on `stream`: no copies from or to the host, no
  // Synchronize, and memory that is still there at every Replay. They do not execute now.
  Recording(Stream& stream, const std::function<void()>& queue_ops);
  ~Recording();
  Recording(Recording&& other) noexcept;
  Recording& operator=(Recording&& other) noexcept;

  void Replay(Stream& stream) const;

 private:
  void* graph_ = nullptr;  // null on a CPU
};

// While one lives, ops on the stream may try several ways of doing their work and keep the fastest
// for shapes like theirs; they then synchronise and allocate. For the time of a load.
class Tuning {
 public:
  explicit Tuning(Stream& stream);
  ~Tuning();
  Tuning(const Tuning&) = delete;
  Tuning& operator=(const Tuning&) = delete;

 private:
  [[maybe_unused]] Stream& stream_;
};

// Bytes of memory free on the device; for a CPU what the system and its control groups, such as a
// container's, leave to this process.
size_t FreeMemory(Device device);

}  // namespace fla
