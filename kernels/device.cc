#include "kernels/device.h"

#include <sys/mman.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/free_memory.h"

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/device_cuda.h"
#endif

namespace fla {
namespace {

// Of every allocation on a CPU: covers a cache line and the widest vector; the same as on a GPU.
constexpr size_t kAlignment = 256;
// Of an allocation on a CPU that is long enough: it begins at a huge page and asks for more of
// them, for touching new memory page by page is what loading a checkpoint would spend most time on.
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLongAllocation = 4 * kHugePage;
// Beyond any machine's memory. Sanitizers end the process for such a size instead of refusing it.
constexpr size_t kLargestAllocation = size_t{1} << 48;

int CudaDeviceCount() {
#ifdef FLA_WITH_CUDA
  return cuda::DeviceCount();
#else
  return 0;
#endif
}

Device ParseCudaDevice(std::string_view name, std::string_view index_text) {
  int index = 0;
  const char* end = index_text.data() + index_text.size();
  const auto [parsed_to, error] = std::from_chars(index_text.data(), end, index);
  if (error != std::errc() || parsed_to != end || index < 0) {
    throw std::invalid_argument("device \"" + std::string(name) +
                                "\": wanted cpu, cuda, cuda:N or auto");
  }
#ifdef FLA_WITH_CUDA
  const int count = CudaDeviceCount();
  if (index >= count) {
    throw std::invalid_argument("device \"" + std::string(name) + "\": this machine has " +
                                std::to_string(count) + " usable CUDA GPU(s)");
  }
  return {Device::Kind::kCuda, index};
#else
  throw std::invalid_argument("device \"" + std::string(name) +
                              "\": this build has no CUDA backend");
#endif
}

void* Allocate(Device device, size_t size) {
#ifdef FLA_WITH_CUDA
  if (device.is_cuda()) return cuda::AllocateDevice(device.index, size);
#endif
  void* data = nullptr;
  if (size <= kLargestAllocation) {
    const size_t alignment = size < kLongAllocation ? kAlignment : kHugePage;
    const size_t whole = (size + kAlignment - 1) / kAlignment * kAlignment;
    if (posix_memalign(&data, alignment, whole) != 0) data = nullptr;
  }
  if (data == nullptr) {
    throw DeviceError("allocating " + std::to_string(size) + " bytes on " + NameOf(device) +
                      ": out of memory");
  }
  // To the last whole one; where the system grants none, pages are as small as ever.
  if (size >= kLongAllocation) madvise(data, size / kHugePage * kHugePage, MADV_HUGEPAGE);
  return data;
}

void Free(Device device, void* data) {
#ifdef FLA_WITH_CUDA
  if (device.is_cuda()) return cuda::FreeDevice(device.index, data);
#endif
  (void)device;
  std::free(data);
}

}  // namespace

Device ParseDevice(std::string_view name) {
  if (name == "cpu") return {};
  if (name == "auto") {
    return CudaDeviceCount() > 0 ? Device{Device::Kind::kCuda, 0} : Device{};
  }
  if (name == "cuda") return ParseCudaDevice(name, "0");
  if (name.substr(0, 5) == "cuda:") return ParseCudaDevice(name, name.substr(5));
  throw std::invalid_argument("device \"" + std::string(name) +
                              "\": wanted cpu, cuda, cuda:N or auto");
}

std::string NameOf(Device device) {
  return device.is_cuda() ? "cuda:" + std::to_string(device.index) : "cpu";
}

Buffer::Buffer(Device device, size_t size) : device_(device), size_(size) {
  if (size > 0) data_ = Allocate(device, size);
}

Buffer::~Buffer() {
  if (data_ != nullptr) Free(device_, data_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) Free(device_, data_);
    device_ = other.device_;
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Stream::Stream(Device device) : device_(device) {
#ifdef FLA_WITH_CUDA
  if (device.is_cuda()) cuda_.reset(cuda::CreateContext(device.index));
#endif
}

Stream::~Stream() = default;

void Stream::CudaContextDeleter::operator()([[maybe_unused]] CudaContext* context) const {
#ifdef FLA_WITH_CUDA
  cuda::DestroyContext(context);
#endif
}

void* Stream::Scratch(size_t bytes) {
  if (bytes > scratch_.size()) {
    FLA_CHECK(!recording_);
    Synchronize();
    if (scratch_is_recorded_) recorded_scratch_.push_back(std::move(scratch_));
    scratch_is_recorded_ = false;
    scratch_ = Buffer();  // before the new one exists, so that both never count at once
    scratch_ = Buffer(device_, bytes);
  }
  if (recording_) scratch_is_recorded_ = true;
  return scratch_.data();
}

void Stream::CopyToDevice(void* device_target, const void* host_source, size_t bytes) {
  if (bytes == 0) return;
#ifdef FLA_WITH_CUDA
  if (cuda_) return cuda::CopyToDevice(*cuda_, device_target, host_source, bytes);
#endif
  std::memcpy(device_target, host_source, bytes);
}

void Stream::CopyToHost(void* host_target, const void* device_source, size_t bytes) {
  if (bytes == 0) return;
#ifdef FLA_WITH_CUDA
  if (cuda_) return cuda::CopyToHost(*cuda_, host_target, device_source, bytes);
#endif
  std::memcpy(host_target, device_source, bytes);
}

void Stream::Zero(void* device_target, size_t bytes) {
  if (bytes == 0) return;
#ifdef FLA_WITH_CUDA
  if (cuda_) return cuda::ZeroDevice(*cuda_, device_target, bytes);
#endif
  std::memset(device_target, 0, bytes);
}

void Stream::Synchronize() {
#ifdef FLA_WITH_CUDA
  if (cuda_) cuda::Synchronize(*cuda_);
#endif
}

size_t Stream::workspace_bytes() const {
  size_t bytes = scratch_.size();
  for (const Buffer& outgrown : recorded_scratch_) bytes += outgrown.size();
#ifdef FLA_WITH_CUDA
  if (cuda_) bytes += cuda::WorkspaceBytes(*cuda_);
#endif
  return bytes;
}

HostBuffer::HostBuffer(Device device, size_t size) : device_(device), size_(size) {
  if (size == 0) return;
#ifdef FLA_WITH_CUDA
  if (device.is_cuda()) {
    data_ = cuda::AllocateHost(device.index, size);
    return;
  }
#endif
  data_ = Allocate({}, size);
}

HostBuffer::~HostBuffer() {
  if (data_ == nullptr) return;
#ifdef FLA_WITH_CUDA
  if (device_.is_cuda()) {
    cuda::FreeHost(device_.index, data_);
    return;
  }
#endif
  Free({}, data_);
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Fence::Fence([[maybe_unused]] Device device) {
#ifdef FLA_WITH_CUDA
  if (device.is_cuda()) event_ = cuda::CreateEvent(device.index);
#endif
}

Fence::~Fence() {
#ifdef FLA_WITH_CUDA
  if (event_ != nullptr) cuda::DestroyEvent(event_);
#endif
}

Fence::Fence(Fence&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}

Fence& Fence::operator=(Fence&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}

void Fence::Record([[maybe_unused]] Stream& stream) {
#ifdef FLA_WITH_CUDA
  if (event_ != nullptr) cuda::RecordEvent(*stream.cuda(), event_);
#endif
}

void Fence::Wait() {
#ifdef FLA_WITH_CUDA
  if (event_ != nullptr) cuda::WaitForEvent(event_);
#endif
}

bool Fence::IsPassed() const {
#ifdef FLA_WITH_CUDA
  if (event_ != nullptr) return cuda::EventIsPassed(event_);
#endif
  return true;
}

Recording::Recording([[maybe_unused]] Stream& stream,
                     [[maybe_unused]] const std::function<void()>& queue_ops) {
  FLA_CHECK(Supported(stream.device()));
#ifdef FLA_WITH_CUDA
  stream.recording_ = true;
  try {
    graph_ = cuda::Record(*stream.cuda(), queue_ops);
  } catch (...) {
    stream.recording_ = false;
    throw;
  }
  stream.recording_ = false;
#endif
}

Recording::~Recording() {
#ifdef FLA_WITH_CUDA
  if (graph_ != nullptr) cuda::DestroyGraph(graph_);
#endif
}

Recording::Recording(Recording&& other) noexcept : graph_(std::exchange(other.graph_, nullptr)) {}

Recording& Recording::operator=(Recording&& other) noexcept {
  std::swap(graph_, other.graph_);
  return *this;
}

void Recording::Replay([[maybe_unused]] Stream& stream) const {
#ifdef FLA_WITH_CUDA
  cuda::ReplayGraph(*stream.cuda(), graph_);
#endif
}

Tuning::Tuning(Stream& stream) : stream_(stream) {
#ifdef FLA_WITH_CUDA
  if (stream_.device().is_cuda()) cuda::SetTuning(*stream_.cuda(), true);
#endif
}

Tuning::~Tuning() {
#ifdef FLA_WITH_CUDA
  if (stream_.device().is_cuda()) cuda::SetTuning(*stream_.cuda(), false);
#endif
}

size_t FreeMemory([[maybe_unused]] Device device) {
#ifdef FLA_WITH_CUDA
  if (device.is_cuda()) return cuda::FreeDeviceMemory(device.index);
#endif
  return cpu::FreeMemory();
}

}  // namespace fla
