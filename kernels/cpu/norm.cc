#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
namespace {

float InverseRms(const float* x, int64_t count, float eps) {
  return 1.0f / std::sqrt(SumSquares(x, count) / static_cast<float>(count) + eps);
}

}  // namespace

void RmsNorm(Stream&, Matrix x, const float* weight, float eps, Matrix out) {
  ParallelFor(x.rows, ThreadsFor(x.rows * x.cols), [&](int64_t t) {
    thread_local std::vector<float> in_buffer, out_buffer;
    const float* row = ReadRow(x, t, 0, x.cols, in_buffer);
    float* target = OpenRow(out, t, 0, x.cols, out_buffer);
    ScaleFloats(row, InverseRms(row, x.cols, eps), weight, x.cols, target);
    FinishRow(out, t, 0, x.cols, target);
  });
}

void AddRmsNorm(Stream&, Matrix residual, Matrix delta, const float* weight, float eps,
                Matrix out) {
  const int64_t cols = residual.cols;
  ParallelFor(residual.rows, ThreadsFor(residual.rows * cols), [&](int64_t t) {
    thread_local std::vector<float> residual_buffer, delta_buffer, out_buffer;
    const float* left = ReadRow(residual, t, 0, cols, residual_buffer);
    float* sum = OpenRow(residual, t, 0, cols, residual_buffer);
    AddFloats(left, ReadRow(delta, t, 0, cols, delta_buffer), cols, sum);
    FinishRow(residual, t, 0, cols, sum);
    // The norm sees the residual as it was stored, so that a reader of `residual` can redo it.
    const float* row = ReadRow(residual, t, 0, cols, residual_buffer);
    float* target = OpenRow(out, t, 0, cols, out_buffer);
    ScaleFloats(row, InverseRms(row, cols, eps), weight, cols, target);
    FinishRow(out, t, 0, cols, target);
  });
}

void LayerNorm(Stream&, const LayerNormArgs& args) {
  const int64_t cols = args.x.cols;
  ParallelFor(args.x.rows, ThreadsFor(args.x.rows * cols), [&](int64_t t) {
    thread_local std::vector<float> x_buffer, delta_buffer, centred, out_buffer;
    if (args.delta.present()) {
      const float* left = ReadRow(args.x, t, 0, cols, x_buffer);
      float* sum = OpenRow(args.x, t, 0, cols, x_buffer);
      AddFloats(left, ReadRow(args.delta, t, 0, cols, delta_buffer), cols, sum);
      FinishRow(args.x, t, 0, cols, sum);
    }
    const float* row = ReadRow(args.x, t, 0, cols, x_buffer);
    const float mean = SumFloats(row, cols) / static_cast<float>(cols);
    centred.resize(cols);
    for (int64_t i = 0; i < cols; ++i) centred[i] = row[i] - mean;
    float* target = OpenRow(args.out, t, 0, cols, out_buffer);
    ScaleFloats(centred.data(), InverseRms(centred.data(), cols, args.eps), args.weight, cols,
                target);
    AddFloats(target, args.bias, cols, target);
    FinishRow(args.out, t, 0, cols, target);
  });
}

void ActivateHeads(Stream&, const ActivateHeadsArgs& args) {
  const Matrix& x = args.x;
  const int64_t dim = args.head_dim;
  ParallelFor(x.rows, ThreadsFor(x.rows * x.cols), [&](int64_t t) {
    thread_local std::vector<float> in_buffer, out_buffer;
    const float* row = ReadRow(x, t, 0, x.cols, in_buffer);
    float* target = OpenRow(args.out, t, 0, x.cols, out_buffer);
    ActivateFloats(args.activation, row, x.cols, target);
    for (int64_t begin = 0; begin < x.cols && args.norm != HeadNorm::kNone; begin += dim) {
      float* head = target + begin;
      float scale = 1.0f;
      switch (args.norm) {
        case HeadNorm::kNone:
          break;
        case HeadNorm::kL2:
          scale = 1.0f / std::sqrt(SumSquares(head, dim) + args.eps);
          break;
        case HeadNorm::kSum:
          scale = 1.0f / (SumFloats(head, dim) + args.eps);
          break;
        case HeadNorm::kL1:
          scale = 1.0f / std::max(SumMagnitudes(head, dim), args.eps);
          break;
      }
      ScaleFloats(head, scale, nullptr, dim, head);
    }
    FinishRow(args.out, t, 0, x.cols, target);
  });
}

void OutputNorm(Stream&, const OutputNormArgs& args) {
  const Matrix& x = args.x;
  const int64_t dim = args.head_dim;
  ParallelFor(x.rows, ThreadsFor(x.rows * x.cols), [&](int64_t t) {
    thread_local std::vector<float> in_buffer, gate_buffer, out_buffer;
    const float* row = ReadRow(x, t, 0, x.cols, in_buffer);
    float* target = OpenRow(args.out, t, 0, x.cols, out_buffer);
    for (int64_t begin = 0; begin < x.cols; begin += dim) {
      const float scale = args.normalize ? InverseRms(row + begin, dim, args.eps) : 1.0f;
      ScaleFloats(row + begin, scale, args.normalize ? args.weight : nullptr, dim, target + begin);
    }
    if (args.gate.present()) {
      const float* gate = ReadRow(args.gate, t, 0, x.cols, gate_buffer);
      GateFloats(args.gate_activation, gate, target, x.cols, target);
    }
    FinishRow(args.out, t, 0, x.cols, target);
  });
}

}  // namespace fla::cpu
