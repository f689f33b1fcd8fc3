// Linear of few inputs: the second half of a low-rank projection, of gates or decays. Of a short
// prompt it has nothing to do but to be there soon: weights and bias are in registers when the
// kernel before ends, and what follows are a few products. Of a long one it writes.
//
// A warp has 32 columns, of which it keeps the weights, and 16 rows at a time.
#include <algorithm>

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
constexpr int kBlocks = 8;                                    // of a multiprocessor, at most

// What a lane has of kRows rows' inputs, of kSteps products.
template <int kSteps>
struct LaneInputs {
  uint32_t of[kSteps][4];

  __device__ __forceinline__ void Fetch(const Matrix& x, int first_row) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + lane / 4 + 8 * half;
      if (row >= x.rows) continue;
      const auto* from = RowOf<const __nv_bfloat16>(x, row) + lane % 4 * 2;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        of[k][half] = *reinterpret_cast<const uint32_t*>(from + k * kStep);
        of[k][half + 2] = *reinterpret_cast<const uint32_t*>(from + k * kStep + 8);
      }
    }
  }
};

// A warp's columns are shared out so that a lane has eight neighbours of a row's: column 8 t + 2 n
// + e is the n-th product's 2 t + e. `whole`: such eight are aligned to 16 bytes.
// grid (ceil(columns / kColumns / kWarps), blocks that share the rows), block (32 * kWarps);
// kSteps * kStep inputs
template <int kSteps>
__global__ void __launch_bounds__(32 * kWarps)
    LowRankLinearKernel(const Matrix x, const Matrix weight, const float* bias, const Matrix out,
                        const bool whole) {
  BeginNextKernel();
  const int lane = threadIdx.x % 32, r = lane / 4, t = lane % 4;
  const int column = (blockIdx.x * kWarps + threadIdx.x / 32) * kColumns;
  const int of_sums = column + 8 * t;
  uint32_t b[kTiles][kSteps][2] = {};
  float biases[kTiles][2] = {};
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int of_weight = column + r / 2 * 8 + 2 * n + r % 2;
    if (of_weight < weight.rows) {
      const auto* from = RowOf<const __nv_bfloat16>(weight, of_weight) + 2 * t;
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        b[n][k][0] = *reinterpret_cast<const uint32_t*>(from + k * kStep);
        b[n][k][1] = *reinterpret_cast<const uint32_t*>(from + k * kStep + 8);
      }
    }
    if (bias != nullptr && of_sums + 2 * n < out.cols) {
      biases[n][0] = bias[of_sums + 2 * n];
      biases[n][1] = bias[of_sums + 2 * n + 1];
    }
  }
  AwaitPreviousKernel();
  const int rows = static_cast<int>(x.rows), step = gridDim.y * kRows;
  LaneInputs<kSteps> ahead = {};
  ahead.Fetch(x, blockIdx.y * kRows);
  for (int row = blockIdx.y * kRows; row < rows; row += step) {
    const LaneInputs<kSteps> a = ahead;
    if (row + step < rows) ahead.Fetch(x, row + step);
    float sums[kTiles][4];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] = biases[n][i % 2];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        MultiplyAdd(sums[n], a.of[k][0], a.of[k][1], a.of[k][2], a.of[k][3], b[n][k][0],
                    b[n][k][1]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int of_row = row + r + 8 * half;
      if (of_row >= rows) continue;
      auto* const to = reinterpret_cast<uint32_t*>(RowOf<__nv_bfloat16>(out, of_row) + of_sums);
      uint32_t pairs[kTiles];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) pairs[n] = Pack(sums[n][2 * half], sums[n][2 * half + 1]);
      if (whole && of_sums < out.cols) {
        *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        if (!whole && of_sums + 2 * n < out.cols) to[n] = pairs[n];
      }
    }
  }
}

}  // namespace

bool LowRankLinear(Stream& stream, const Matrix& x, const Matrix& weight, const float* bias,
                   const Matrix& out) {
  if ((weight.cols > kMaxNarrowInputs && x.rows > kMaxLowRankRows) || weight.rows % 2 != 0) {
    return false;
  }
  for (const Matrix& matrix : {x, weight, out}) {
    const bool pairs = reinterpret_cast<uintptr_t>(matrix.data) % 4 == 0 && matrix.stride % 2 == 0;
    if (matrix.dtype != DType::kBF16 || !pairs) return false;
  }
  const auto launch = [&](auto kernel) {
    const cudaStream_t cuda_stream = MakeCurrent(stream);
    const int across = DivideUp(weight.rows, kWarps * kColumns);
    const int sharing = std::min(DivideUp(x.rows, kRows),
                                 DivideUp(kBlocks * stream.cuda()->num_multiprocessors, across));
    Check(LaunchChained(kernel, dim3(across, sharing), dim3(32 * kWarps), 0, cuda_stream,
                        stream.cuda()->can_chain, x, weight, bias, out,
                        Vectorizable(out.cols, {out})),
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
