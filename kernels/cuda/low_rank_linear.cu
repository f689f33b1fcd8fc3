// Linear of few rows and few inputs: the second half of a low-rank projection of a short prompt, of
// gates or decays. It has nothing to do but to be there soon: weights and bias are in registers
// when the kernel before ends, and what follows are a few products.
//
// A warp has 16 rows and 32 columns.
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/low_rank_linear.h"

namespace fla::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRows = 16, kTiles = 4, kColumns = 8 * kTiles;  // of a warp
constexpr int kStep = 16;                                     // inputs of a product

// grid (ceil(tiles / kWarps)), block (32 * kWarps); kSteps * kStep inputs
template <int kSteps>
__global__ void __launch_bounds__(32 * kWarps)
    LowRankLinearKernel(const Matrix x, const Matrix weight, const float* bias, const Matrix out) {
  BeginNextKernel();
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int tile = blockIdx.x * kWarps + threadIdx.x / 32;
  const int tiles_of_rows = DivideUp(out.cols, kColumns);
  const int row = tile / tiles_of_rows * kRows + r, column = tile % tiles_of_rows * kColumns;
  uint32_t b[kTiles][kSteps][2] = {};
  float sums[kTiles][4] = {};
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int of_weight = column + 8 * n + r, of_sum = column + 8 * n + 2 * t;
    if (of_weight < weight.rows) {
      const auto* from = RowOf<const __nv_bfloat16>(weight, of_weight) + 2 * t;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        b[n][k][0] = *reinterpret_cast<const uint32_t*>(from + k * kStep);
        b[n][k][1] = *reinterpret_cast<const uint32_t*>(from + k * kStep + 8);
      }
    }
    if (bias != nullptr && of_sum < out.cols) {
      sums[n][0] = sums[n][2] = bias[of_sum];
      sums[n][1] = sums[n][3] = bias[of_sum + 1];
    }
  }
  AwaitPreviousKernel();
  uint32_t a[kSteps][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + 8 * half >= x.rows) continue;
    const auto* from = RowOf<const __nv_bfloat16>(x, row + 8 * half) + 2 * t;
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      a[k][half] = *reinterpret_cast<const uint32_t*>(from + k * kStep);
      a[k][half + 2] = *reinterpret_cast<const uint32_t*>(from + k * kStep + 8);
    }
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      MultiplyAdd(sums[n], a[k][0], a[k][1], a[k][2], a[k][3], b[n][k][0], b[n][k][1]);
    }
    const int of_sum = column + 8 * n + 2 * t;
    if (of_sum >= out.cols) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row + 8 * half >= out.rows) continue;
      *reinterpret_cast<uint32_t*>(RowOf<__nv_bfloat16>(out, row + 8 * half) + of_sum) =
          Pack(sums[n][2 * half], sums[n][2 * half + 1]);
    }
  }
}

}  // namespace

bool LowRankLinear(Stream& stream, const Matrix& x, const Matrix& weight, const float* bias,
                   const Matrix& out) {
  if (x.rows > kMaxLowRankRows || weight.rows % 2 != 0) return false;
  for (const Matrix& matrix : {x, weight, out}) {
    const bool pairs = reinterpret_cast<uintptr_t>(matrix.data) % 4 == 0 && matrix.stride % 2 == 0;
    if (matrix.dtype != DType::kBF16 || !pairs) return false;
  }
  const auto launch = [&](auto kernel) {
    const int tiles = DivideUp(x.rows, kRows) * DivideUp(weight.rows, kColumns);
    const cudaStream_t cuda_stream = MakeCurrent(stream);
    Check(LaunchChained(kernel, dim3(DivideUp(tiles, kWarps)), dim3(32 * kWarps), 0, cuda_stream,
                        stream.cuda()->can_chain, x, weight, bias, out),
          "LowRankLinearKernel");
    return true;
  };
  switch (weight.cols) {
    case 16:
      return launch(LowRankLinearKernel<1>);
    case 32:
      return launch(LowRankLinearKernel<2>);
    case 64:
      return launch(LowRankLinearKernel<4>);
    case 128:
      return launch(LowRankLinearKernel<8>);
    default:
      return false;
  }
}

}  // namespace fla::cuda
