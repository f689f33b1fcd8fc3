// The page that picks a backend. A CPU runs the ops: they are not what a decode step costs there.
#include "kernels/decode.h"

#include "kernels/check.h"

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/decode.h"
#endif

namespace fla {

int MaxDecodeLinearRows([[maybe_unused]] Stream& stream) {
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::MaxDecodeLinearRows(stream);
#endif
  return 0;
}

bool DecodeLinear([[maybe_unused]] Stream& stream, const DecodeLinearArgs& args) {
  FLA_CHECK(args.x.cols == args.weight.cols && args.out.rows == args.x.rows);
  const bool pairs = args.output == DecodeLinearArgs::Output::kSwiGlu;
  FLA_CHECK(args.weight.rows == (pairs ? 2 : 1) * args.out.cols);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::DecodeLinear(stream, args);
#endif
  return false;
}

bool PrepareStep([[maybe_unused]] Stream& stream, const PrepareStepArgs& args) {
  FLA_CHECK(args.q.rows == args.k.rows && args.q.rows == args.v.rows);
  FLA_CHECK(args.head_k_dim > 0 && args.q.cols % args.head_k_dim == 0);
  FLA_CHECK(args.head_v_dim > 0 && args.v.cols % args.head_v_dim == 0);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::PrepareStep(stream, args);
#endif
  return false;
}

}  // namespace fla
