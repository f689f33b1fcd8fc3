// Eight-bit weights (kernels/fp8.h) for products that want bf16.
#pragma once

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla::cuda {

// What a widened weight takes at most. Larger ones come in parts of a multiple of so many rows.
inline constexpr int64_t kWidenedBytes = int64_t{64} << 20, kWidenedRows = 256;

// Whether there are kernels that read such weights of so many columns: on Hopper.
bool HoldsFp8(int device_index, int64_t cols);

// The weight in bf16, in the stream's scratch memory, where it stays until somebody else takes
// that. At most kWidenedBytes. The kernel that reads it must not begin early (chained.cuh).
Matrix WidenWeight(Stream& stream, const Matrix& weight);

}  // namespace fla::cuda
