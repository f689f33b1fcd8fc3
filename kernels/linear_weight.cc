// The page that picks a backend.
#include "kernels/linear_weight.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/cpu/panel_product.h"

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/widen_weight.h"
#endif

namespace fla {

size_t PackedLinearBytes(Device device, DType dtype, int64_t rows, int64_t cols) {
  return device.is_cuda() ? 0 : cpu::PackedLinearBytes(dtype, rows, cols);
}

bool HoldsFp8([[maybe_unused]] Device device, [[maybe_unused]] int64_t cols) {
#ifdef FLA_WITH_CUDA
  if (device.is_cuda()) return cuda::HoldsFp8(device.index, cols);
#endif
  return false;
}

LinearPacking::LinearPacking(Device device, DType dtype, int64_t rows, int64_t cols, void* target)
    : rows_(rows), target_(target) {
  FLA_CHECK(!device.is_cuda());
  cpu::BeginPacking({nullptr, dtype, rows, cols, cols}, target);
}

int64_t LinearPacking::panels() const {
  return (rows_ + cpu::kPanelWeights - 1) / cpu::kPanelWeights;
}

int64_t LinearPacking::FirstRow(int64_t panel) const { return panel * cpu::kPanelWeights; }

int64_t LinearPacking::NumRows(int64_t panel) const {
  return std::min<int64_t>(cpu::kPanelWeights, rows_ - FirstRow(panel));
}

void LinearPacking::Pack(int64_t panel, const void* rows) const {
  cpu::PackPanel(panel, rows, target_);
}

Matrix PackLinear(Device device, Matrix weight, void* target) {
  FLA_CHECK(!device.is_cuda() && weight.contiguous() && !weight.packed);
  cpu::PackLinear(weight, target);
  weight.data = target;
  weight.packed = true;
  return weight;
}

}  // namespace fla
