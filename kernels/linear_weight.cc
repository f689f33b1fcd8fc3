// The page that picks a backend.
#include "kernels/linear_weight.h"

#include "kernels/check.h"
#include "kernels/cpu/packed_linear.h"

namespace fla {

size_t PackedLinearBytes(Device device, DType dtype, int64_t rows, int64_t cols) {
  return device.is_cuda() ? 0 : cpu::PackedLinearBytes(dtype, rows, cols);
}

Matrix PackLinear(Device device, Matrix weight, void* target) {
  FLA_CHECK(!device.is_cuda() && weight.contiguous() && !weight.packed);
  cpu::PackLinear(weight, target);
  weight.data = target;
  weight.packed = true;
  return weight;
}

}  // namespace fla
