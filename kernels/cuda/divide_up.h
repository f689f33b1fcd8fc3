// How many parts of `part` hold `count`.
#pragma once

#include <cstdint>

namespace fla::cuda {

constexpr int DivideUp(int64_t count, int64_t part) {
  return static_cast<int>((count + part - 1) / part);
}

}  // namespace fla::cuda
