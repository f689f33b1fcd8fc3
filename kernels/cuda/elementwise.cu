// Ops whose every output element depends on its own column of its own row: SwiGlu, Multiply, Add,
// LogDecay, Beta. All are bound by memory traffic.
#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/gates.cuh"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

constexpr int kThreads = 256;

// Calls f(row, column) for the first column of every N columns.
// grid (ceil(rows / block.y), ceil(columns / N / block.x)), block (x: columns, y: rows), 256 in all
template <int N, typename F>
__global__ void __launch_bounds__(kThreads) ForEachElementKernel(int64_t rows, int columns, F f) {
  BeginNextKernel();
  AwaitPreviousKernel();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
  if (row < rows && column < columns) f(row, column);
}

template <int N, typename F>
void ForEachElement(Stream& stream, const char* name, int64_t rows, int64_t columns, F f) {
  if (rows == 0 || columns == 0) return;
  unsigned lanes = 1;
  while (lanes < kThreads && lanes * N < columns) lanes *= 2;
  const dim3 block(lanes, kThreads / lanes);
  const dim3 grid(static_cast<unsigned>((rows + block.y - 1) / block.y),
                  static_cast<unsigned>((columns + lanes * N - 1) / (lanes * N)));
  Check(LaunchChained(ForEachElementKernel<N, F>, grid, block, 0, MakeCurrent(stream),
                      stream.cuda()->can_chain, rows, static_cast<int>(columns), f),
        name);
}

template <typename T, int N>
struct SwiGluElements {
  Matrix gate_up, out;
  __device__ void operator()(int64_t row, int column) const {
    float gate[N], up[N];
    Load(RowOf<const T>(gate_up, row) + column, gate);
    Load(RowOf<const T>(gate_up, row) + out.cols + column, up);
#pragma unroll
    for (int i = 0; i < N; ++i) gate[i] = gate[i] * Sigmoid<T>(gate[i]) * up[i];
    Store(RowOf<T>(out, row) + column, gate);
  }
};

template <typename T, int N>
struct MultiplyElements {
  Matrix a, b, out;
  __device__ void operator()(int64_t row, int column) const {
    float x[N], y[N];
    Load(RowOf<const T>(a, row) + column, x);
    Load(RowOf<const T>(b, row) + column, y);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] *= y[i];
    Store(RowOf<T>(out, row) + column, x);
  }
};

template <typename R, typename T, int N>
struct AddElements {
  Matrix residual, delta;
  __device__ void operator()(int64_t row, int column) const {
    float x[N], y[N];
    Load(RowOf<const R>(residual, row) + column, x);
    Load(RowOf<const T>(delta, row) + column, y);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] += y[i];
    Store(RowOf<R>(residual, row) + column, x);
  }
};

template <typename T, int N>
struct LogDecayElements {
  LogDecayArgs args;
  int channels;  // of a head: a multiple of N
  __device__ void operator()(int64_t row, int column) const {
    float x[N];
    Load(RowOf<const T>(args.x, row) + column, x);
    if (args.dt_bias != nullptr) {
      float bias[N];
      Load(args.dt_bias + column, bias);
#pragma unroll
      for (int i = 0; i < N; ++i) x[i] += bias[i];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = LogDecayOf(args, column / channels, x[i]);
    Store(args.out + row * args.x.cols + column, x);
  }
};

template <typename T, int N>
struct BetaElements {
  Matrix x;
  float scale;
  float* out;
  __device__ void operator()(int64_t row, int column) const {
    float values[N];
    Load(RowOf<const T>(x, row) + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = scale * Sigmoid(values[i]);
    Store(out + row * x.cols + column, values);
  }
};

}  // namespace

void SwiGlu(Stream& stream, Matrix gate_up, Matrix out) {
  DispatchElements(out.dtype, Vectorizable(out.cols, {gate_up, out}), [&]<typename T, int N>() {
    ForEachElement<N>(stream, "SwiGlu", out.rows, out.cols, SwiGluElements<T, N>{gate_up, out});
  });
}

void Multiply(Stream& stream, Matrix a, Matrix b, Matrix out) {
  DispatchElements(out.dtype, Vectorizable(out.cols, {a, b, out}), [&]<typename T, int N>() {
    ForEachElement<N>(stream, "Multiply", out.rows, out.cols, MultiplyElements<T, N>{a, b, out});
  });
}

void Add(Stream& stream, Matrix residual, Matrix delta) {
  const int64_t rows = residual.rows, columns = residual.cols;
  DispatchElements(delta.dtype, Vectorizable(columns, {residual, delta}), [&]<typename T, int N>() {
    if (residual.dtype == DType::kF32) {
      ForEachElement<N>(stream, "Add", rows, columns, AddElements<float, T, N>{residual, delta});
    } else {
      ForEachElement<N>(stream, "Add", rows, columns,
                        AddElements<__nv_bfloat16, T, N>{residual, delta});
    }
  });
}

void LogDecay(Stream& stream, const LogDecayArgs& args) {
  const int channels = static_cast<int>(args.x.cols / args.heads);
  const bool vectorizable =
      Vectorizable(channels, {args.x}) && IsAligned(args.dt_bias) && IsAligned(args.out);
  DispatchElements(args.x.dtype, vectorizable, [&]<typename T, int N>() {
    ForEachElement<N>(stream, "LogDecay", args.x.rows, args.x.cols,
                      LogDecayElements<T, N>{args, channels});
  });
}

void Beta(Stream& stream, Matrix x, float scale, float* out) {
  DispatchElements(x.dtype, Vectorizable(x.cols, {x}) && IsAligned(out), [&]<typename T, int N>() {
    ForEachElement<N>(stream, "Beta", x.rows, x.cols, BetaElements<T, N>{x, scale, out});
  });
}

}  // namespace fla::cuda
