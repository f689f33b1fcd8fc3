#include <algorithm>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
namespace {

constexpr int kMaxWidth = 8;
// Channels that one task convolves: their window and taps stay in the first-level cache.
constexpr int64_t kChannelBlock = 256;

// One sequence's tokens [begin, end), channels [channel, channel + count).
void ConvolveBlock(const ShortConvolutionArgs& args, int sequence, int64_t channel, int64_t count) {
  const int begin = args.cu_seqlens_host[sequence], end = args.cu_seqlens_host[sequence + 1];
  if (begin == end) return;
  const int width = args.width, history = width - 1;
  float* state = args.state + args.slots[sequence] * args.slot_stride +
                 channel * static_cast<int64_t>(history);

  float taps[kMaxWidth * kChannelBlock];  // [W, count]
  for (int j = 0; j < width; ++j) {
    for (int64_t c = 0; c < count; ++c) {
      taps[j * count + c] = args.weight[(channel + c) * width + j];
    }
  }
  // Input t lives in row (t - begin + history) % width: a ring of the last `width` inputs.
  float window[kMaxWidth][kChannelBlock];
  for (int j = 0; j < history; ++j) {
    for (int64_t c = 0; c < count; ++c) window[j][c] = state[c * history + j];
  }
  thread_local std::vector<float> out_buffer;
  const float* bias = args.bias == nullptr ? nullptr : args.bias + channel;
  const size_t element = SizeOf(args.x.dtype);
  int newest = history - 1;  // ring row of the newest input
  for (int t = begin; t < end; ++t) {
    newest = (newest + 1) % width;
    const char* row = args.x.Row<const char>(0) + (t * args.x.stride + channel) * element;
    LoadFloats(args.x.dtype, row, count, window[newest]);
    const float* inputs[kMaxWidth];
    for (int j = 0; j < width; ++j) inputs[j] = window[(newest + 1 + j) % width];
    float* target = OpenRow(args.out, t, channel, count, out_buffer);
    ConvolveFloats(inputs, taps, bias, width, count, target);
    ActivateFloats(args.activation, target, count, target);
    FinishRow(args.out, t, channel, count, target);
  }
  for (int j = 0; j < history; ++j) {
    const float* input = window[(newest + 2 + j) % width];
    for (int64_t c = 0; c < count; ++c) state[c * history + j] = input[c];
  }
}

}  // namespace

void ShortConvolution(Stream& stream, const ShortConvolutionArgs& args) {
  FLA_CHECK(args.width >= 2 && args.width <= kMaxWidth);
  const int64_t channels = args.x.cols;
  const int64_t blocks = (channels + kChannelBlock - 1) / kChannelBlock;
  ParallelFor(blocks * args.num_sequences, ThreadsFor(args.x.rows * channels), [&](int64_t task) {
    const int64_t channel = task % blocks * kChannelBlock;
    ConvolveBlock(args, static_cast<int>(task / blocks), channel,
                  std::min(kChannelBlock, channels - channel));
  });
  if (args.normed == 0) return;
  const Matrix heads = args.out.Columns(0, args.normed);
  cpu::ActivateHeads(
      stream, {heads, args.head_dim, Activation::kIdentity, HeadNorm::kL2, args.norm_eps, heads});
}

}  // namespace fla::cpu
