// Host memory on its way to the device.
#pragma once

#include <array>
#include <cstddef>

#include "kernels/device.h"

namespace fla {

// Small arrays that change with every step: filled on the host, copied without waiting for the
// copies before. A few buffers take turns, so that filling one waits only for a copy long past.
//
// Thread safety: one thread at a time, that which owns the stream.
class Staging {
 public:
  explicit Staging(Device device);

  // `bytes` of memory to be filled, aligned to 256 bytes, valid until the next call.
  char* Fill(size_t bytes);
  // Queues a copy of the first `bytes` of what was filled.
  void Upload(Stream& stream, void* device_target, size_t bytes);

 private:
  struct Turn {
    HostBuffer memory;
    Fence copied;
  };
  Device device_;
  std::array<Turn, 4> turns_;
  size_t current_ = 0;
};

}  // namespace fla
