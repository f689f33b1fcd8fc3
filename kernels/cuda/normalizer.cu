// The normaliser of linear attention: a running sum of k and its dot products with q.
#include <algorithm>

#include "kernels/cuda/context.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTileTokens = 32;  // a lane each

// values[r] of every lane -> the sum of values[l] over the warp, in lane l. 31 shuffles: each
// round halves the rows that a lane still holds.
__device__ float TransposeSum(float (&values)[kTileTokens]) {
  static_assert(kTileTokens == 32);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 16; half > 0; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float sent = upper ? values[i] : values[i + half];
      const float kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(0xffffffffu, sent, half);
    }
  }
  return values[0];
}

// A block walks one head of one sequence in tiles of kTileTokens; a thread sums every kThreads-th
// channel of k.
// grid (heads, sequences), block (kThreads), shared float [K]: z
template <typename T>
__global__ void __launch_bounds__(kThreads) NormalizerKernel(NormalizerArgs args) {
  extern __shared__ float z[];
  __shared__ float warp_dots[kWarps][kTileTokens];
  __shared__ float divisors[kTileTokens];
  const int head = blockIdx.x, sequence = blockIdx.y;
  const int begin = args.cu_seqlens[sequence], end = args.cu_seqlens[sequence + 1];
  if (begin == end || args.slots[sequence] < 0) return;
  const int K = args.key_dim, V = args.value_dim;
  const int k_head = head / (args.heads / args.k_heads);
  float* state = args.state + (static_cast<int64_t>(args.slots[sequence]) * args.heads + head) * K;
  for (int c = threadIdx.x; c < K; c += kThreads) z[c] = state[c];

  for (int tile = begin; tile < end; tile += kTileTokens) {
    const int rows = min(kTileTokens, end - tile);
    float dots[kTileTokens] = {};
    for (int c = threadIdx.x; c < K; c += kThreads) {
      float sum = z[c];
#pragma unroll
      for (int r = 0; r < kTileTokens; ++r) {
        if (r < rows) {
          sum += ToFloat(RowOf<const T>(args.k, tile + r)[k_head * K + c]);
          dots[r] += sum * ToFloat(RowOf<const T>(args.q, tile + r)[head * K + c]);
        }
      }
      z[c] = sum;
    }
    warp_dots[threadIdx.x / 32][threadIdx.x % 32] = TransposeSum(dots);
    __syncthreads();
    if (threadIdx.x < kTileTokens) {
      float dot = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) dot += warp_dots[warp][threadIdx.x];
      divisors[threadIdx.x] = args.scale * dot + args.eps;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * V; i += kThreads) {
      T* out = RowOf<T>(args.out, tile + i / V) + static_cast<int64_t>(head) * V + i % V;
      *out = FromFloat<T>(ToFloat(*out) / divisors[i / V]);
    }
  }
  for (int c = threadIdx.x; c < K; c += kThreads) state[c] = z[c];
}

}  // namespace

void Normalizer(Stream& stream, const NormalizerArgs& args) {
  if (args.out.rows == 0 || args.num_sequences == 0) return;
  const dim3 grid(static_cast<unsigned>(args.heads), static_cast<unsigned>(args.num_sequences));
  const size_t shared_bytes = static_cast<size_t>(args.key_dim) * sizeof(float);
  const auto launch = [&]<typename T>() {
    NormalizerKernel<T><<<grid, kThreads, shared_bytes, MakeCurrent(stream)>>>(args);
    CheckLaunch("Normalizer");
  };
  args.out.dtype == DType::kF32 ? launch.template operator()<float>()
                                : launch.template operator()<__nv_bfloat16>();
}

}  // namespace fla::cuda
