// RMSNorm and LayerNorm over whole rows, alone and with the residual addition before it.
#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/warp_sum.cuh"

namespace fla::cuda {
namespace {

constexpr int kMaxThreads = 512;

__device__ __forceinline__ float RowSum(float x) {
  return BlockSum<kMaxThreads / 32>(x, blockDim.x / 32);
}

// R: dtype of `residual`, which for kAdd is updated with `delta` and otherwise only read; T: of
// delta and out. The norm is that of the stored, rounded residual. A thread keeps its first N
// columns in registers, which is all of them where D <= N * block, and reads their weights while
// the kernel before still runs.
//
// grid (rows), block (D / N rounded up to a warp, at most kMaxThreads)
template <bool kAdd, typename R, typename T, int N>
__global__ void __launch_bounds__(kMaxThreads)
    RmsNormKernel(Matrix residual, Matrix delta, const float* weight, float eps, Matrix out) {
  BeginNextKernel();
  const int64_t row = blockIdx.x;
  const int columns = static_cast<int>(out.cols);
  const int first = threadIdx.x * N, step = blockDim.x * N;
  R* x = RowOf<R>(residual, row);
  float kept[N] = {}, kept_weights[N] = {};
  if (first < columns) Load(weight + first, kept_weights);
  AwaitPreviousKernel();
  float sum = 0.0f;
  const auto read = [&](int column, float(&values)[N]) {
    Load(x + column, values);
    if constexpr (kAdd) {
      float added[N];
      Load(RowOf<const T>(delta, row) + column, added);
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] = ToFloat(FromFloat<R>(values[i] + added[i]));
      Store(x + column, values);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum += values[i] * values[i];
  };
  if (first < columns) read(first, kept);
  for (int column = first + step; column < columns; column += step) {
    float values[N];
    read(column, values);
  }
  const float scale = rsqrtf(RowSum(sum) / static_cast<float>(columns) + eps);
  const auto write = [&](int column, const float(&values)[N], const float(&weights)[N]) {
    float normed[N];
#pragma unroll
    for (int i = 0; i < N; ++i) normed[i] = values[i] * scale * weights[i];
    Store(RowOf<T>(out, row) + column, normed);
  };
  if (first < columns) write(first, kept, kept_weights);
  for (int column = first + step; column < columns; column += step) {
    float values[N], weights[N];
    Load(x + column, values);
    Load(weight + column, weights);
    write(column, values, weights);
  }
}

// As RmsNormKernel, of LayerNormArgs: mean first, then the variance about it, so that a large mean
// costs no precision.
// grid (rows), block (D / N rounded up to a warp, at most kMaxThreads)
template <typename R, typename T, int N>
__global__ void __launch_bounds__(kMaxThreads) LayerNormKernel(LayerNormArgs args) {
  const int64_t row = blockIdx.x;
  const int columns = static_cast<int>(args.out.cols);
  const int first = threadIdx.x * N, step = blockDim.x * N;
  const bool add = args.delta.data != nullptr;
  R* x = RowOf<R>(args.x, row);
  float kept[N] = {};
  float sum = 0.0f;
  for (int column = first; column < columns; column += step) {
    float values[N];
    Load(x + column, values);
    if (add) {
      float added[N];
      Load(RowOf<const T>(args.delta, row) + column, added);
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] = ToFloat(FromFloat<R>(values[i] + added[i]));
      Store(x + column, values);
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += values[i];
      if (column == first) kept[i] = values[i];
    }
  }
  const auto load = [&](int column, float(&values)[N]) {
    if (column == first) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] = kept[i];
    } else {
      Load(x + column, values);
    }
  };
  const float mean = RowSum(sum) / static_cast<float>(columns);
  float squares = 0.0f;
  for (int column = first; column < columns; column += step) {
    float values[N];
    load(column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) squares += (values[i] - mean) * (values[i] - mean);
  }
  __syncthreads();  // RowSum's memory has been read
  const float scale = rsqrtf(RowSum(squares) / static_cast<float>(columns) + args.eps);
  for (int column = first; column < columns; column += step) {
    float values[N], weights[N], biases[N];
    Load(args.weight + column, weights);
    Load(args.bias + column, biases);
    load(column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = (values[i] - mean) * scale * weights[i] + biases[i];
    Store(RowOf<T>(args.out, row) + column, values);
  }
}

unsigned ThreadsForRow(int64_t columns, int N) {
  return static_cast<unsigned>(
      std::min<int64_t>(kMaxThreads, (columns + N * 32 - 1) / (N * 32) * 32));
}

template <bool kAdd, typename R>
void Launch(Stream& stream, const char* name, Matrix residual, Matrix delta, const float* weight,
            float eps, Matrix out) {
  if (out.rows == 0) return;
  const bool vectorizable = Vectorizable(out.cols, {residual, delta, out}) && IsAligned(weight);
  DispatchElements(out.dtype, vectorizable, [&]<typename T, int N>() {
    const unsigned rows = static_cast<unsigned>(out.rows);
    Check(LaunchChained(RmsNormKernel<kAdd, R, T, N>, rows, ThreadsForRow(out.cols, N), 0,
                        MakeCurrent(stream), stream.cuda()->can_chain, residual, delta, weight, eps,
                        out),
          name);
  });
}

}  // namespace

void RmsNorm(Stream& stream, Matrix x, const float* weight, float eps, Matrix out) {
  if (x.dtype == DType::kF32) {
    Launch<false, float>(stream, "RmsNorm", x, {}, weight, eps, out);
  } else {
    Launch<false, __nv_bfloat16>(stream, "RmsNorm", x, {}, weight, eps, out);
  }
}

void LayerNorm(Stream& stream, const LayerNormArgs& args) {
  if (args.out.rows == 0) return;
  const bool vectorizable = Vectorizable(args.out.cols, {args.x, args.delta, args.out}) &&
                            IsAligned(args.weight) && IsAligned(args.bias);
  DispatchElements(args.out.dtype, vectorizable, [&]<typename T, int N>() {
    const unsigned rows = static_cast<unsigned>(args.out.rows);
    const unsigned threads = ThreadsForRow(args.out.cols, N);
    if (args.x.dtype == DType::kF32) {
      LayerNormKernel<float, T, N><<<rows, threads, 0, MakeCurrent(stream)>>>(args);
    } else {
      LayerNormKernel<__nv_bfloat16, T, N><<<rows, threads, 0, MakeCurrent(stream)>>>(args);
    }
    CheckLaunch("LayerNorm");
  });
}

void AddRmsNorm(Stream& stream, Matrix residual, Matrix delta, const float* weight, float eps,
                Matrix out) {
  if (residual.dtype == DType::kF32) {
    Launch<true, float>(stream, "AddRmsNorm", residual, delta, weight, eps, out);
  } else {
    Launch<true, __nv_bfloat16>(stream, "AddRmsNorm", residual, delta, weight, eps, out);
  }
}

}  // namespace fla::cuda
