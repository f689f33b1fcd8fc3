// The decay over each segment, which is all that a segment of the additive rule does to the state
// that it starts from (scan_segment.cuh). Not of a sequence's first and last segment, where nobody
// asks.
//
// Grid (slots of segments, H).
#include "kernels/cuda/scan_segment.cuh"
#include "kernels/cuda/warp_sum.cuh"

namespace fla::cuda {
namespace {

// Scalar: one warp, from the log decays. The chunks' records need not exist.
__global__ void __launch_bounds__(32)
    ScalarDecaysKernel(const RecurrenceParams p, const TokenWindow window,
                       const SegmentWorkspace segments) {
  const Segment segment = FindSegment<kChunk>(p, window, segments, blockIdx.x);
  if (segment.begin == segment.end || segment.is_first || segment.is_last) return;
  const int lane = threadIdx.x, h = blockIdx.y;
  float sum = 0.0f;
  for (int token = segment.begin + lane; token < segment.end; token += 32) {
    float x = p.log_decay[p.decay == Decay::kPerHead
                              ? h
                              : static_cast<int64_t>(token) * p.decay_heads + h / p.decay_group];
    if (x < -128.0f) x = -128.0f;  // a decay of 0 in f32 anyway; a NaN stays
    sum += x;
  }
  sum = WarpSum(sum);
  if (lane == 0) segments.decays[static_cast<int64_t>(segment.slot) * p.heads + h] = __expf(sum);
}

// Per channel: a thread a channel, the product of what the chunks' records say.
__global__ void __launch_bounds__(256)
    ChannelDecaysKernel(const RecurrenceParams p, const ChunkRecord record,
                        const TokenWindow window, const ChunkWorkspace workspace) {
  const Segment segment = FindSegment<kChunk>(p, window, workspace.segments, blockIdx.x);
  if (segment.begin == segment.end || segment.is_first || segment.is_last) return;
  const int channel = threadIdx.x, h = blockIdx.y;
  if (channel >= p.key_dim) return;
  const int num_chunks =
      (segment.end - segment.begin) / kChunk;  // whole ones: not the last segment
  const char* const first =
      workspace.records + (static_cast<int64_t>(segment.chunk_slot) * p.heads + h) * record.bytes +
      record.decay;
  float product = 1.0f;
#pragma unroll 8
  for (int i = 0; i < num_chunks; ++i) {
    product *= reinterpret_cast<const float*>(first + static_cast<int64_t>(i) * p.heads *
                                                          record.bytes)[channel];
  }
  const int64_t number = static_cast<int64_t>(segment.slot) * p.heads + h;
  workspace.segments.decays[number * p.key_dim + channel] = product;
}

}  // namespace

void LaunchSegmentDecays(const RecurrenceParams& p, const ChunkRecord& record, TokenWindow window,
                         const ChunkWorkspace& workspace, cudaStream_t stream) {
  const SegmentWorkspace& segments = workspace.segments;
  const dim3 grid(SlotsOfWindow(window, p.num_sequences, segments.tokens), p.heads);
  if (p.decay == Decay::kPerChannel) {
    ChannelDecaysKernel<<<grid, 256, 0, stream>>>(p, record, window, workspace);
    CheckLaunch("ChannelDecaysKernel");
  } else {
    ScalarDecaysKernel<<<grid, 32, 0, stream>>>(p, window, segments);
    CheckLaunch("ScalarDecaysKernel");
  }
}

}  // namespace fla::cuda
