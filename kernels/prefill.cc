// The page that picks a backend. On a CPU a matrix product is so slow that the ops behind it
// vanish.
#include "kernels/prefill.h"

#include "kernels/check.h"

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/between_recurrences.h"
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

bool LateLinear([[maybe_unused]] Stream& stream, Matrix x, Matrix weight, int64_t late,
                Matrix out) {
  FLA_CHECK(x.cols == weight.cols && weight.rows == out.cols && out.rows == x.rows);
  FLA_CHECK(0 < late && late < out.cols);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::LateLinear(stream, x, weight, late, out);
#endif
  return false;
}

void AwaitLate([[maybe_unused]] Stream& stream) {
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) cuda::AwaitLate(stream);
#endif
}

bool TakesBetweenRecurrences([[maybe_unused]] Stream& stream, const BetweenRecurrencesArgs& args) {
  const auto product = [](const Matrix& x, const Matrix& weight, const Matrix& out, int parts = 1) {
    FLA_CHECK(x.cols == weight.cols && weight.rows == parts * out.cols && out.rows == x.rows);
  };
  product(args.x, args.output, args.residual);
  product(args.normed, args.gate_up, args.inner, 2);
  product(args.inner, args.down, args.residual);
  product(args.normed, args.next, args.out);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::TakesBetweenRecurrences(stream, args);
#endif
  return false;
}

void BetweenRecurrences(Stream& stream, const BetweenRecurrencesArgs& args) {
  FLA_CHECK(TakesBetweenRecurrences(stream, args));
#ifdef FLA_WITH_CUDA
  cuda::BetweenRecurrences(stream, args);
#endif
}

}  // namespace fla
