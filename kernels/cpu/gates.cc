#include <cmath>
#include <vector>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {

void LogDecay(Stream& stream, const LogDecayArgs& args) {
  const Matrix& x = args.x;
  const int64_t channels = x.cols / args.heads;
  auto* a_scale = static_cast<float*>(stream.Scratch(args.heads * sizeof(float)));
  for (int h = 0; h < args.heads; ++h) {
    a_scale[h] = args.a_log == nullptr ? 1.0f : std::exp(args.a_log[h]);
  }
  ParallelFor(x.rows, ThreadsFor(x.rows * x.cols), [&](int64_t t) {
    thread_local std::vector<float> buffer;
    const float* row = ReadRow(x, t, 0, x.cols, buffer);
    float* out = args.out + t * x.cols;
    for (int h = 0; h < args.heads; ++h) {
      const int64_t begin = h * channels;
      const LogDecayHead head = {
          .kind = args.kind,
          .a_scale = a_scale[h],
          .bias = args.dt_bias == nullptr ? nullptr : args.dt_bias + begin,
          .normalizer = args.normalizer,
          .clamp_min = args.clamp_min,
          .lower_bound = args.lower_bound,
      };
      LogDecayFloats(head, row + begin, channels, out + begin);
    }
  });
}

void Beta(Stream&, Matrix x, float scale, float* out) {
  ParallelFor(x.rows, ThreadsFor(x.rows * x.cols), [&](int64_t t) {
    thread_local std::vector<float> buffer;
    float* row = out + t * x.cols;
    ActivateFloats(Activation::kSigmoid, ReadRow(x, t, 0, x.cols, buffer), x.cols, row);
    ScaleFloats(row, scale, nullptr, x.cols, row);
  });
}

}  // namespace fla::cpu
