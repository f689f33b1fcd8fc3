// Memory for the intermediate results of one forward pass.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

// Hands out matrices one after the other and takes them back all at once or down to a mark. Memory
// is allocated the first time that a size is reached and kept, so that a pass no larger than an
// earlier one allocates nothing.
//
// Thread safety: one thread at a time.
class ActivationArena {
 public:
  explicit ActivationArena(Device device) : device_(device) {}

  // An uninitialised contiguous [rows, cols] matrix, aligned to 256 bytes.
  Matrix Take(int64_t rows, int64_t cols, DType dtype);
  // So many uninitialised bytes, likewise aligned.
  void* TakeBytes(int64_t bytes);

  struct Mark {
    size_t block = 0;
    size_t offset = 0;
  };
  Mark mark() const { return at_; }
  // Everything taken since the mark may be handed out again.
  void ReturnTo(Mark mark) { at_ = mark; }

  size_t bytes() const;

 private:
  Device device_;
  std::vector<Buffer> blocks_;
  Mark at_;
};

}  // namespace fla
