#include "model/activation_arena.h"

#include <algorithm>

namespace fla {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kMinBlockBytes = size_t{16} << 20;

}  // namespace

Matrix ActivationArena::Take(int64_t rows, int64_t cols, DType dtype) {
  return {TakeBytes(rows * cols * static_cast<int64_t>(SizeOf(dtype))), dtype, rows, cols, cols};
}

void* ActivationArena::TakeBytes(int64_t wanted) {
  const size_t bytes = (static_cast<size_t>(wanted) + kAlignment - 1) / kAlignment * kAlignment;
  while (at_.block < blocks_.size() && at_.offset + bytes > blocks_[at_.block].size()) {
    at_ = {at_.block + 1, 0};
  }
  if (at_.block == blocks_.size()) {
    blocks_.emplace_back(device_, std::max(bytes, kMinBlockBytes));
    at_.offset = 0;
  }
  char* data = blocks_[at_.block].as<char>() + at_.offset;
  at_.offset += bytes;
  return data;
}

size_t ActivationArena::bytes() const {
  size_t total = 0;
  for (const Buffer& block : blocks_) total += block.size();
  return total;
}

}  // namespace fla
