// The page that picks a backend.
#include "kernels/ops.h"

#include "kernels/check.h"
#include "kernels/cpu/ops.h"

#ifdef FLA_WITH_CUDA
#include "kernels/cuda/ops.h"
#define FLA_FORWARD(op, ...) \
  (stream.device().is_cuda() ? cuda::op(stream, __VA_ARGS__) : cpu::op(stream, __VA_ARGS__))
#else
#define FLA_FORWARD(op, ...) cpu::op(stream, __VA_ARGS__)
#endif

namespace fla {
namespace {

bool SameShape(const Matrix& a, const Matrix& b) { return a.rows == b.rows && a.cols == b.cols; }

}  // namespace

void EmbeddingLookup(Stream& stream, const int* tokens, Matrix table, Matrix out,
                     const int* sampled, DeviceTime* began) {
  FLA_CHECK(table.cols == out.cols);
  FLA_FORWARD(EmbeddingLookup, tokens, table, out, sampled, began);
}

void WriteInts(Stream& stream, std::span<const int> values, int* target) {
  FLA_FORWARD(WriteInts, values, target);
}

void ZeroRows(Stream& stream, const ByteRows* regions, int count, int64_t row) {
  FLA_FORWARD(ZeroRows, regions, count, row);
}

void GatherRows(Stream& stream, Matrix x, const int* rows, Matrix out) {
  FLA_CHECK(x.cols == out.cols);
  FLA_FORWARD(GatherRows, x, rows, out);
}

void RmsNorm(Stream& stream, Matrix x, const float* weight, float eps, Matrix out) {
  FLA_CHECK(SameShape(x, out));
  FLA_FORWARD(RmsNorm, x, weight, eps, out);
}

void AddRmsNorm(Stream& stream, Matrix residual, Matrix delta, const float* weight, float eps,
                Matrix out) {
  FLA_CHECK(SameShape(residual, delta) && SameShape(residual, out));
  FLA_FORWARD(AddRmsNorm, residual, delta, weight, eps, out);
}

void LayerNorm(Stream& stream, const LayerNormArgs& args) {
  FLA_CHECK(SameShape(args.x, args.out) && args.x.data != args.out.data);
  FLA_CHECK(!args.delta.present() || SameShape(args.x, args.delta));
  FLA_FORWARD(LayerNorm, args);
}

void Add(Stream& stream, Matrix residual, Matrix delta) {
  FLA_CHECK(SameShape(residual, delta));
  FLA_FORWARD(Add, residual, delta);
}

void Linear(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out) {
  FLA_CHECK(x.dtype == weight.dtype || (x.dtype == DType::kBF16 && weight.dtype == DType::kF8E4M3));
  FLA_CHECK(x.cols == weight.cols);
  FLA_CHECK(out.rows == x.rows && out.cols == weight.rows);
  FLA_FORWARD(Linear, x, weight, bias, out);
}

void SwiGlu(Stream& stream, Matrix gate_up, Matrix out) {
  FLA_CHECK(gate_up.rows == out.rows && gate_up.cols == 2 * out.cols);
  FLA_FORWARD(SwiGlu, gate_up, out);
}

void ShortConvolution(Stream& stream, const ShortConvolutionArgs& args) {
  FLA_CHECK(args.width >= 2 && args.width <= 8 && SameShape(args.x, args.out));
  FLA_CHECK(args.normed >= 0 && args.normed <= args.x.cols);
  FLA_CHECK(args.normed == 0 || (args.head_dim > 0 && args.normed % args.head_dim == 0));
  FLA_FORWARD(ShortConvolution, args);
}

void ActivateHeads(Stream& stream, const ActivateHeadsArgs& args) {
  FLA_CHECK(SameShape(args.x, args.out) && args.head_dim > 0 && args.x.cols % args.head_dim == 0);
  FLA_FORWARD(ActivateHeads, args);
}

void Multiply(Stream& stream, Matrix a, Matrix b, Matrix out) {
  FLA_CHECK(SameShape(a, b) && SameShape(a, out));
  FLA_FORWARD(Multiply, a, b, out);
}

void HedgehogFeatureMap(Stream& stream, Matrix x, int head_dim, Matrix out) {
  FLA_CHECK(x.rows == out.rows && out.cols == 2 * x.cols && x.cols % head_dim == 0);
  FLA_FORWARD(HedgehogFeatureMap, x, head_dim, out);
}

void DpfpFeatureMap(Stream& stream, Matrix x, int head_dim, int nu, Matrix out) {
  FLA_CHECK(x.rows == out.rows && out.cols == 2 * nu * x.cols && x.cols % head_dim == 0);
  FLA_FORWARD(DpfpFeatureMap, x, head_dim, nu, out);
}

void Rotary(Stream& stream, Matrix x, int head_dim, float base, const int* positions) {
  FLA_CHECK(head_dim % 2 == 0 && x.cols % head_dim == 0);
  FLA_FORWARD(Rotary, x, head_dim, base, positions);
}

void LogDecay(Stream& stream, const LogDecayArgs& args) {
  FLA_CHECK(args.heads > 0 && args.x.cols % args.heads == 0);
  FLA_CHECK(args.kind == GateKind::kLogSigmoid || args.a_log != nullptr);
  FLA_FORWARD(LogDecay, args);
}

void Beta(Stream& stream, Matrix x, float scale, float* out) { FLA_FORWARD(Beta, x, scale, out); }

void OutputNorm(Stream& stream, const OutputNormArgs& args) {
  FLA_CHECK(SameShape(args.x, args.out) && args.head_dim > 0 && args.x.cols % args.head_dim == 0);
  FLA_CHECK(!args.gate.present() || SameShape(args.x, args.gate));
  FLA_FORWARD(OutputNorm, args);
}

void Normalizer(Stream& stream, const NormalizerArgs& args) {
  FLA_CHECK(args.q.cols == static_cast<int64_t>(args.heads) * args.key_dim);
  FLA_CHECK(args.k.cols == static_cast<int64_t>(args.k_heads) * args.key_dim);
  FLA_CHECK(args.out.cols == static_cast<int64_t>(args.heads) * args.value_dim);
  FLA_CHECK(args.heads % args.k_heads == 0);
  FLA_FORWARD(Normalizer, args);
}

}  // namespace fla
