// Chunk attention, second kernel: z, and of the open chunk its z (kLinear) or its keys and values
// (kSoftmax). All blocks of the first kernel read these, so that none of them may write them.
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/chunk_attention_elements.cuh"
#include "kernels/cuda/chunk_attention_launch.h"
#include "kernels/cuda/errors.h"

namespace fla::cuda {
namespace {

constexpr int kWarps = 16, kThreads = 32 * kWarps;

// The sums over [begin, end) of channel `channel` of rows `rows(t)`, every `step`th from `first`
// on.
template <typename Row>
__device__ float SumChannel(int begin, int end, int first, int step, int channel, Row row) {
  float sum = 0.0f;
#pragma unroll 4
  for (int t = begin + first; t < end; t += step) sum += ToFloat(row(t)[channel]);
  return sum;
}

// 32 channels of k at a time, the tokens dealt out to the warps.
// grid (H, N), block (kThreads)
template <typename T>
__global__ void __launch_bounds__(kThreads) ChunkFinishKernel(const ChunkAttentionArgs args) {
  __shared__ float closed_sums[kWarps][32], open_sums[kWarps][32];
  const ChunkAttentionSpec& spec = args.spec;
  const int K = spec.key_dim, V = spec.value_dim, h = blockIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  ChunkSequence sequence;
  if (!FindChunkSequence(args, h, blockIdx.y, sequence)) return;
  const bool softmax = spec.rule == ChunkRule::kSoftmax;
  const int length = sequence.end - sequence.begin;
  const bool closes = sequence.before + length >= spec.chunk;
  const int open_tokens = (sequence.before + length) % spec.chunk;
  // The call's tokens from here on are those of the chunk that stays open.
  const int open_begin = closes ? sequence.end - open_tokens : sequence.begin;
  float* const open = args.open + sequence.head * OpenChunkFloats(spec);
  float* const z = args.normalizer + sequence.head * K;
  float* const open_z = open + static_cast<int64_t>(K) * V;  // kLinear
  const auto call_row = [&](int t) { return RowAt<const T>(args.k, t, h * K); };
  const auto open_row = [&](int place) { return open + static_cast<int64_t>(place) * K; };

  for (int first = 0; first < K; first += 32) {
    const int channel = first + lane;
    float closed_sum = 0.0f, open_sum = 0.0f;
    if (channel < K) {
      closed_sum = SumChannel(sequence.begin, open_begin, warp, kWarps, channel, call_row);
      if (softmax && closes) {
        closed_sum += SumChannel(0, sequence.before, warp, kWarps, channel, open_row);
      }
      if (!softmax) {
        open_sum = SumChannel(open_begin, sequence.end, warp, kWarps, channel, call_row);
      }
    }
    __syncthreads();
    closed_sums[warp][lane] = closed_sum;
    open_sums[warp][lane] = open_sum;
    __syncthreads();
    if (warp == 0 && channel < K) {
      for (int w = 1; w < kWarps; ++w) {
        closed_sum += closed_sums[w][lane];
        open_sum += open_sums[w][lane];
      }
      if (closes) z[channel] += closed_sum + (softmax ? 0.0f : open_z[channel]);
      if (!softmax) open_z[channel] = closes ? open_sum : open_z[channel] + open_sum;
    }
  }
  if (!softmax) return;
  __syncthreads();  // the old keys have been read
  const int first_place = closes ? 0 : sequence.before;
  float* const values = open + static_cast<int64_t>(spec.chunk) * K;
  for (int place = first_place + warp; place < open_tokens; place += kWarps) {
    const int64_t token = sequence.end - open_tokens + place;
    const T* k = RowAt<const T>(args.k, token, h * K);
    const T* v = RowAt<const T>(args.v, token, h * V);
    for (int i = lane; i < K; i += 32) open[static_cast<int64_t>(place) * K + i] = ToFloat(k[i]);
    for (int i = lane; i < V; i += 32) values[static_cast<int64_t>(place) * V + i] = ToFloat(v[i]);
  }
}

}  // namespace

void LaunchChunkFinish(const ChunkAttentionArgs& args, cudaStream_t stream) {
  ForElements(args.out.dtype, [&]<typename T>() {
    Check(LaunchChained(ChunkFinishKernel<T>, dim3(args.spec.heads, args.num_sequences),
                        dim3(kThreads), 0, stream, /*chained=*/false, args),
          "ChunkFinishKernel");
  });
}

void LaunchChunkAttention(const ChunkAttentionArgs& args, cudaStream_t stream) {
  if (args.num_sequences == 0 || args.out.rows == 0) return;
  LaunchChunkScan(args, stream);
  LaunchChunkFinish(args, stream);
}

}  // namespace fla::cuda
