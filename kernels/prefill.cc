// The page that picks a backend. On a CPU a matrix product is so slow that the ops behind it
// vanish.
#include "kernels/prefill.h"

#include "kernels/check.h"

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/prefill.h"
#endif

namespace fla {

bool LinearSwiGlu([[maybe_unused]] Stream& stream, Matrix x, Matrix weight, Matrix out) {
  FLA_CHECK(x.cols == weight.cols && weight.rows == 2 * out.cols && out.rows == x.rows);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::LinearSwiGlu(stream, x, weight, out);
#endif
  return false;
}

}  // namespace fla
