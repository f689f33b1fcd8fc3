// A residual stream as its norm in two pieces (kernels/folded_residual.h). An element of the norm,
// rounded to 24 bits, is a bf16 number and a signed byte that follows it.
#include <algorithm>

#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/folded_residual.h"
#include "kernels/cuda/special_functions.cuh"
#include "kernels/cuda/warp_sum.cuh"

namespace fla::cuda {
namespace {

using Bf16 = __nv_bfloat16;

constexpr int kPieces = 2;  // of kVector columns that a thread has
constexpr int kMaxThreads = kMaxFoldedColumns / (kPieces * kVector);
constexpr int kMaxWarps = kMaxThreads / 32;
constexpr int kResidentThreads = 512;  // of a multiprocessor
static_assert(kMaxThreads <= kResidentThreads && kMaxWarps == 8);

struct FoldedArgs {
  Matrix normed;
  int8_t* rest;
  float* scales;
  const float* weight;  // of what is read
  Matrix added;         // bf16, or what is folded, f32
  const float* next_weight;
  float eps;
};

// Byte 1 of each number.
__device__ __forceinline__ uint32_t SecondBytes(const uint32_t (&of)[4]) {
  return __byte_perm(__byte_perm(of[0], of[1], 0x51), __byte_perm(of[2], of[3], 0x51), 0x5410);
}

// The norm before it was rounded.
__device__ __forceinline__ void Join(const Run<Bf16, kVector>& normed, uint2 rests,
                                     float (&x)[kVector]) {
  Unpack(normed, x);
  const auto add = [](float& upper, uint32_t rest) {
    upper = __uint_as_float(__float_as_uint(upper) + rest);
  };
  add(x[0], SignedByteTimes256<0>(rests.x));
  add(x[1], SignedByteTimes256<1>(rests.x));
  add(x[2], SignedByteTimes256<2>(rests.x));
  add(x[3], SignedByteTimes256<3>(rests.x));
  add(x[4], SignedByteTimes256<0>(rests.y));
  add(x[5], SignedByteTimes256<1>(rests.y));
  add(x[6], SignedByteTimes256<2>(rests.y));
  add(x[7], SignedByteTimes256<3>(rests.y));
}

// Rounds z to `normed` and gives the eight bits behind each element: half a place more than there
// are steps becomes one step less. Of a NaN, which stays one, any.
__device__ __forceinline__ uint2 Split(const float (&z)[kVector], Run<Bf16, kVector>& normed) {
  auto* const pairs = reinterpret_cast<__nv_bfloat162*>(normed.elements);
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    pairs[i] = __floats2bfloat162_rn(z[2 * i], z[2 * i + 1]);
  }
  float upper[kVector];
  Unpack(normed, upper);
  uint32_t rests[2][4];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const auto difference = static_cast<int>(__float_as_uint(z[i]) - __float_as_uint(upper[i]));
    rests[i / 4][i % 4] = static_cast<uint32_t>(min(difference + 128, 0x7fff));
  }
  return make_uint2(SecondBytes(rests[0]), SecondBytes(rests[1]));
}

// kVector columns of a row on their way. kFolded: x is what is folded, to which `added` is added;
// else it is `added`.
template <bool kFolded>
struct Piece {
  Run<Bf16, kVector> normed, added;
  uint2 rests;

  __device__ __forceinline__ void Fetch(const FoldedArgs& args, int64_t row, int column) {
    normed = LoadRun<kVector>(RowOf<const Bf16>(args.normed, row) + column);
    rests = *reinterpret_cast<const uint2*>(args.rest + row * args.normed.cols + column);
    added = LoadRun<kVector>(RowOf<const Bf16>(args.added, row) + column);
  }
  // inverses: of the weights. inverse_scale: of the row's scale.
  __device__ __forceinline__ void Unfold(const float (&inverses)[kVector], float inverse_scale,
                                         float (&x)[kVector]) const {
    float addends[kVector];
    Join(normed, rests, x);
    Unpack(added, addends);
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] = x[i] * (inverse_scale * inverses[i]) + addends[i];
  }
};
template <>
struct Piece<false> {
  float added[kVector];

  __device__ __forceinline__ void Fetch(const FoldedArgs& args, int64_t row, int column) {
    Load(RowOf<const float>(args.added, row) + column, added);
  }
  __device__ __forceinline__ void Unfold(const float (&)[kVector], float,
                                         float (&x)[kVector]) const {
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] = added[i];
  }
};

// A thread asks for its pieces of a row before it works on those of the one in front of that.
// grid (blocks, at most T), block (D / (kPieces kVector) rounded up to a warp)
template <bool kFolded>
__global__ void __launch_bounds__(kMaxThreads, kResidentThreads / kMaxThreads)
    FoldKernel(const __grid_constant__ FoldedArgs args) {
  __shared__ __align__(16) float warp_sums[2][kMaxWarps];
  BeginNextKernel();
  const int columns = static_cast<int>(args.normed.cols);
  const int rows = static_cast<int>(args.added.rows), step = gridDim.x;
  const auto column = [&](int piece) {
    return (piece * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kVector;
  };
  if (threadIdx.x < 2 * kMaxWarps) (&warp_sums[0][0])[threadIdx.x] = 0.0f;
  float inverses[kPieces][kVector] = {}, weights[kPieces][kVector] = {};
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    if (column(piece) >= columns) continue;
    Load(args.weight + column(piece), inverses[piece]);
    Load(args.next_weight + column(piece), weights[piece]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) inverses[piece][i] = Reciprocal(inverses[piece][i]);
  }
  __syncthreads();
  AwaitPreviousKernel();
  Piece<kFolded> ahead[kPieces] = {};
  float scale_ahead = 1.0f;
  const auto fetch = [&](int row) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      if (column(piece) < columns) ahead[piece].Fetch(args, row, column(piece));
    }
    if (kFolded) scale_ahead = args.scales[row];
  };
  fetch(blockIdx.x);
  const float inverse_columns = 1.0f / static_cast<float>(columns);
  int turn = 0;
  for (int row = blockIdx.x; row < rows; row += step, turn ^= 1) {
    float x[kPieces][kVector], sum = 0.0f;
    const float inverse_scale = Reciprocal(scale_ahead);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      ahead[piece].Unfold(inverses[piece], inverse_scale, x[piece]);
    }
    if (row + step < rows) fetch(row + step);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum += x[piece][i] * x[piece][i];
    }
    sum = WarpSum(sum);
    if (threadIdx.x % 32 == 0) warp_sums[turn][threadIdx.x / 32] = sum;
    __syncthreads();
    const auto* const sums = reinterpret_cast<const float4*>(warp_sums[turn]);
    const float4 a = sums[0], b = sums[1];
    sum = ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
    const float scale = rsqrtf(sum * inverse_columns + args.eps);
    if (threadIdx.x == 0) args.scales[row] = scale;
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      if (column(piece) >= columns) continue;
#pragma unroll
      for (int i = 0; i < kVector; ++i) x[piece][i] *= scale * weights[piece][i];
      Run<Bf16, kVector> normed;
      const uint2 rests = Split(x[piece], normed);
      *reinterpret_cast<Run<Bf16, kVector>*>(RowOf<Bf16>(args.normed, row) + column(piece)) =
          normed;
      *reinterpret_cast<uint2*>(args.rest + int64_t{row} * columns + column(piece)) = rests;
    }
  }
}

// grid (rows of out), block (D / kVector rounded up to a warp)
__global__ void UnfoldRowsKernel(const __grid_constant__ FoldedArgs args, const int* rows,
                                 Matrix out) {
  const int columns = static_cast<int>(args.normed.cols), column = threadIdx.x * kVector;
  if (column >= columns) return;
  const int64_t row = rows[blockIdx.x];
  const float scale = args.scales[row];
  float weights[kVector], x[kVector];
  Load(args.weight + column, weights);
  Join(LoadRun<kVector>(RowOf<const Bf16>(args.normed, row) + column),
       *reinterpret_cast<const uint2*>(args.rest + row * columns + column), x);
#pragma unroll
  for (int i = 0; i < kVector; ++i) x[i] /= scale * weights[i];
  Store(RowOf<float>(out, blockIdx.x) + column, x);
}

unsigned Threads(int64_t columns) {
  return static_cast<unsigned>(DivideUp(columns, kVector * 32) * 32);
}

FoldedArgs ArgsOf(const FoldedResidual& folded) {
  return {.normed = folded.normed,
          .rest = folded.rest,
          .scales = folded.scales,
          .weight = folded.weight};
}

template <bool kFolded>
void Launch(Stream& stream, const FoldedArgs& args) {
  if (args.added.rows == 0) return;
  const unsigned threads = Threads(DivideUp(args.added.cols, kPieces));
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  const int64_t resident = stream.cuda()->num_multiprocessors * (kResidentThreads / threads);
  const auto blocks = static_cast<unsigned>(std::min(args.added.rows, resident));
  Check(LaunchChained(FoldKernel<kFolded>, blocks, threads, 0, cuda_stream,
                      stream.cuda()->can_chain, args),
        kFolded ? "AddToFolded" : "FoldResidual");
}

}  // namespace

bool FoldsResiduals(int64_t columns) {
  return columns % kVector == 0 && columns <= kMaxFoldedColumns;
}

void FoldResidual(Stream& stream, Matrix x, float eps, const FoldedResidual& folded) {
  FoldedArgs args = ArgsOf(folded);
  args.added = x;
  args.next_weight = folded.weight;
  args.eps = eps;
  Launch<false>(stream, args);
}

void AddToFolded(Stream& stream, const FoldedResidual& folded, Matrix delta, const float* weight,
                 float eps) {
  FoldedArgs args = ArgsOf(folded);
  args.added = delta;
  args.next_weight = weight;
  args.eps = eps;
  Launch<true>(stream, args);
}

void UnfoldRows(Stream& stream, const FoldedResidual& folded, const int* rows, Matrix out) {
  if (out.rows == 0) return;
  UnfoldRowsKernel<<<static_cast<unsigned>(out.rows), Threads(out.cols), 0, MakeCurrent(stream)>>>(
      ArgsOf(folded), rows, out);
  CheckLaunch("UnfoldRows");
}

}  // namespace fla::cuda
