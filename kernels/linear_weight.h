// A Linear's weight in the order in which the device's Linear reads it fastest.
#pragma once

#include <cstddef>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

// Bytes that a weight [rows, cols] takes in that order, which is then to be used; 0 where the
// device's Linear reads rows. May measure and allocate: for the time of a load.
size_t PackedLinearBytes(Device device, DType dtype, int64_t rows, int64_t cols);

// Writes `weight`, contiguous in host memory, to `target`, PackedLinearBytes (not 0) of the
// device's memory: the same Matrix for Linear, `packed`, and for nothing else.
Matrix PackLinear(Device device, Matrix weight, void* target);

}  // namespace fla
