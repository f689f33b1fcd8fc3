#include <vector>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
namespace {

// Rows of out from rows of a and b, of which it may be one.
void ForEachRow(void (*compute)(const float* a, const float* b, size_t count, float* out), Matrix a,
                Matrix b, Matrix out) {
  ParallelFor(out.rows, ThreadsFor(out.rows * out.cols), [&](int64_t t) {
    thread_local std::vector<float> a_buffer, b_buffer, out_buffer;
    const float* left = ReadRow(a, t, 0, out.cols, a_buffer);
    const float* right = ReadRow(b, t, 0, out.cols, b_buffer);
    float* target = OpenRow(out, t, 0, out.cols, out_buffer);
    compute(left, right, out.cols, target);
    FinishRow(out, t, 0, out.cols, target);
  });
}

}  // namespace

void SwiGlu(Stream&, Matrix gate_up, Matrix out) {
  ParallelFor(out.rows, ThreadsFor(out.rows * out.cols), [&](int64_t t) {
    thread_local std::vector<float> in_buffer, out_buffer;
    const float* gate = ReadRow(gate_up, t, 0, 2 * out.cols, in_buffer);
    float* target = OpenRow(out, t, 0, out.cols, out_buffer);
    GateFloats(Activation::kSilu, gate, gate + out.cols, out.cols, target);
    FinishRow(out, t, 0, out.cols, target);
  });
}

void Add(Stream&, Matrix residual, Matrix delta) {
  ForEachRow(AddFloats, residual, delta, residual);
}

void Multiply(Stream&, Matrix a, Matrix b, Matrix out) { ForEachRow(MultiplyFloats, a, b, out); }

}  // namespace fla::cpu
