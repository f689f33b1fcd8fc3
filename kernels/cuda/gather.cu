// Rows picked by index: EmbeddingLookup and GatherRows.
#include <algorithm>

#include "kernels/cuda/context.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

constexpr int kMaxThreads = 256;

// out[i] = source[rows[i]], converted from S to T.
// grid (rows of out), block (columns / N rounded up to a warp, at most kMaxThreads)
template <typename S, typename T, int N>
__global__ void GatherRowsKernel(Matrix source, const int* rows, Matrix out) {
  const int64_t row = blockIdx.x;
  const S* from = RowOf<const S>(source, rows[row]);
  T* to = RowOf<T>(out, row);
  for (int column = threadIdx.x * N; column < out.cols; column += blockDim.x * N) {
    float values[N];
    Load(from + column, values);
    Store(to + column, values);
  }
}

template <typename S>
void Gather(Stream& stream, const char* name, Matrix source, const int* rows, Matrix out) {
  if (out.rows == 0) return;
  DispatchElements(out.dtype, Vectorizable(out.cols, {source, out}), [&]<typename T, int N>() {
    const int64_t threads = std::min<int64_t>(kMaxThreads, (out.cols / N + 31) / 32 * 32);
    GatherRowsKernel<S, T, N>
        <<<static_cast<unsigned>(out.rows), static_cast<unsigned>(std::max<int64_t>(threads, 32)),
           0, MakeCurrent(stream)>>>(source, rows, out);
    CheckLaunch(name);
  });
}

void Gather(Stream& stream, const char* name, Matrix source, const int* rows, Matrix out) {
  switch (source.dtype) {
    case DType::kF32:
      return Gather<float>(stream, name, source, rows, out);
    case DType::kF16:
      return Gather<__half>(stream, name, source, rows, out);
    case DType::kBF16:
      return Gather<__nv_bfloat16>(stream, name, source, rows, out);
  }
}

}  // namespace

void EmbeddingLookup(Stream& stream, const int* tokens, Matrix table, Matrix out) {
  Gather(stream, "EmbeddingLookup", table, tokens, out);
}

void GatherRows(Stream& stream, Matrix x, const int* rows, Matrix out) {
  Gather(stream, "GatherRows", x, rows, out);
}

}  // namespace fla::cuda
