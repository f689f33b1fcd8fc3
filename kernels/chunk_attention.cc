#include "kernels/chunk_attention.h"

#include "kernels/check.h"
#include "kernels/cpu/chunk_attention.h"
#ifdef FLA_WITH_CUDA
#include "kernels/cuda/chunk_attention.h"
#endif

namespace fla {
namespace {

bool Fits(const Matrix& matrix, const Matrix& like, int64_t cols) {
  return matrix.dtype == like.dtype && matrix.rows == like.rows && matrix.cols == cols &&
         matrix.stride >= cols;
}

void CheckArgs(const ChunkAttentionArgs& args) {
  const ChunkAttentionSpec& spec = args.spec;
  FLA_CHECK(spec.chunk > 0 && spec.heads > 0 && spec.key_dim > 0 && spec.value_dim > 0);
  FLA_CHECK(args.out.dtype == DType::kF32 || args.out.dtype == DType::kBF16);
  FLA_CHECK(Fits(args.q, args.out, int64_t{spec.heads} * spec.key_dim));
  FLA_CHECK(Fits(args.k, args.out, int64_t{spec.heads} * spec.key_dim));
  FLA_CHECK(Fits(args.v, args.out, int64_t{spec.heads} * spec.value_dim));
  FLA_CHECK(Fits(args.out, args.out, int64_t{spec.heads} * spec.value_dim));
  FLA_CHECK(args.num_sequences >= 0);
  if (args.num_sequences == 0) return;
  FLA_CHECK(args.state != nullptr && args.normalizer != nullptr && args.open != nullptr);
  FLA_CHECK(args.slots != nullptr && args.cu_seqlens != nullptr);
  FLA_CHECK(args.positions != nullptr || args.out.rows == 0);
  const int* const first = args.cu_seqlens_host;
  FLA_CHECK(first != nullptr && first[0] >= 0);
  for (int n = 0; n < args.num_sequences; ++n) {
    FLA_CHECK(first[n] <= first[n + 1]);
  }
  FLA_CHECK(first[args.num_sequences] <= args.out.rows);
}

}  // namespace

void ChunkAttention(Stream& stream, const ChunkAttentionArgs& args) {
  CheckArgs(args);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::ChunkAttention(stream, args);
#endif
  cpu::ChunkAttention(stream, args);
}

}  // namespace fla
