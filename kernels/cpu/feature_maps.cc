#include <cmath>
#include <vector>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
namespace {

// out[0..K) = 2x, out[K..2K) = -2x, then softmax over all 2K.
void HedgehogHead(const float* x, int dim, float* out) {
  ScaleFloats(x, 2.0f, nullptr, dim, out);
  ScaleFloats(x, -2.0f, nullptr, dim, out + dim);
  ExpFloats(out, MaxFloats(out, 2 * dim), 1.0f, 2 * dim, out);
  ScaleFloats(out, 1.0f / SumFloats(out, 2 * dim), nullptr, 2 * dim, out);
}

// y[0..K) = relu(x), y[K..2K) = relu(-x), twice in a row, so that a roll by j is y shifted by -j.
void DpfpHead(const float* x, int dim, int nu, float* y, float* out) {
  const int width = 2 * dim;
  for (int i = 0; i < dim; ++i) {
    y[i] = x[i] < 0.0f ? 0.0f : x[i];
    y[dim + i] = -x[i] < 0.0f ? 0.0f : -x[i];
  }
  for (int i = 0; i < width; ++i) y[width + i] = y[i];
  for (int j = 1; j <= nu; ++j) {
    // A roll may go round more than once.
    MultiplyFloats(y, y + (width - j % width) % width, width, out + (j - 1) * width);
  }
}

}  // namespace

void HedgehogFeatureMap(Stream&, Matrix x, int head_dim, Matrix out) {
  ParallelFor(x.rows, ThreadsFor(out.rows * out.cols), [&](int64_t t) {
    thread_local std::vector<float> in_buffer, out_buffer;
    const float* row = ReadRow(x, t, 0, x.cols, in_buffer);
    float* target = OpenRow(out, t, 0, out.cols, out_buffer);
    for (int64_t begin = 0; begin < x.cols; begin += head_dim) {
      HedgehogHead(row + begin, head_dim, target + 2 * begin);
    }
    FinishRow(out, t, 0, out.cols, target);
  });
}

void DpfpFeatureMap(Stream&, Matrix x, int head_dim, int nu, Matrix out) {
  ParallelFor(x.rows, ThreadsFor(out.rows * out.cols), [&](int64_t t) {
    thread_local std::vector<float> in_buffer, out_buffer, head_buffer;
    head_buffer.resize(4 * static_cast<size_t>(head_dim));
    const float* row = ReadRow(x, t, 0, x.cols, in_buffer);
    float* target = OpenRow(out, t, 0, out.cols, out_buffer);
    for (int64_t begin = 0; begin < x.cols; begin += head_dim) {
      DpfpHead(row + begin, head_dim, nu, head_buffer.data(), target + 2 * nu * begin);
    }
    FinishRow(out, t, 0, out.cols, target);
  });
}

void Rotary(Stream& stream, Matrix x, int head_dim, float base, const int* positions) {
  const int half = head_dim / 2;
  auto* frequency = static_cast<float*>(stream.Scratch(half * sizeof(float)));
  for (int i = 0; i < half; ++i) {
    frequency[i] = 1.0f / std::pow(base, static_cast<float>(2 * i) / static_cast<float>(head_dim));
  }
  ParallelFor(x.rows, ThreadsFor(x.rows * x.cols), [&](int64_t t) {
    thread_local std::vector<float> row_buffer, angle_buffer;
    angle_buffer.resize(head_dim);
    float* cosine = angle_buffer.data();
    float* sine = cosine + half;
    for (int i = 0; i < half; ++i) {
      // The angle is rounded to f32 first, as in the library.
      const float angle = static_cast<float>(positions[t]) * frequency[i];
      cosine[i] = std::cos(angle);
      sine[i] = std::sin(angle);
    }
    const float* from = ReadRow(x, t, 0, x.cols, row_buffer);
    float* row = OpenRow(x, t, 0, x.cols, row_buffer);
    for (int64_t begin = 0; begin < x.cols; begin += head_dim) {
      for (int i = 0; i < half; ++i) {
        const float a = from[begin + i], b = from[begin + half + i];
        row[begin + i] = a * cosine[i] - b * sine[i];
        row[begin + half + i] = b * cosine[i] + a * sine[i];
      }
    }
    FinishRow(x, t, 0, x.cols, row);
  });
}

}  // namespace fla::cpu
