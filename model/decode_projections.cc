#include "model/decode_projections.h"

#include "kernels/decode.h"

namespace fla {
namespace {

using Input = DecodeLinearArgs::Input;
using Output = DecodeLinearArgs::Output;

DecodeLinearArgs Normed(const NormedResidual& x, Matrix weight, Output output, Matrix out) {
  DecodeLinearArgs args;
  args.input = Input::kNormed;
  args.x = x.residual;
  args.norm_weight = x.weight;
  args.eps = x.eps;
  args.weight = weight;
  args.output = output;
  args.out = out;
  return args;
}

DecodeLinearArgs Plain(Matrix x, Matrix weight, Output output, Matrix out) {
  DecodeLinearArgs args;
  args.x = x;
  args.weight = weight;
  args.output = output;
  args.out = out;
  return args;
}

Matrix NormOf(Stream& stream, ActivationArena& arena, const NormedResidual& x) {
  const Matrix normed = arena.Take(x.residual.rows, x.residual.cols, DType::kBF16);
  RmsNorm(stream, x.residual, x.weight, x.eps, normed);
  return normed;
}

}  // namespace

void ProjectNormed(Stream& stream, ActivationArena& arena, const NormedResidual& x, Matrix weight,
                   Matrix out) {
  if (DecodeLinear(stream, Normed(x, weight, Output::kStore, out))) return;
  const Matrix normed = NormOf(stream, arena, x);
  if (DecodeLinear(stream, Plain(normed, weight, Output::kStore, out))) return;
  Linear(stream, normed, weight, nullptr, out);
}

void ProjectSwiGlu(Stream& stream, ActivationArena& arena, const NormedResidual& x, Matrix gate_up,
                   Matrix out) {
  if (DecodeLinear(stream, Normed(x, gate_up, Output::kSwiGlu, out))) return;
  const Matrix normed = NormOf(stream, arena, x);
  if (DecodeLinear(stream, Plain(normed, gate_up, Output::kSwiGlu, out))) return;
  const Matrix pairs = arena.Take(out.rows, 2 * out.cols, out.dtype);
  Linear(stream, normed, gate_up, nullptr, pairs);
  SwiGlu(stream, pairs, out);
}

void AddProjection(Stream& stream, ActivationArena& arena, Matrix x, Matrix weight,
                   Matrix residual) {
  if (DecodeLinear(stream, Plain(x, weight, Output::kAdd, residual))) return;
  const Matrix delta = arena.Take(residual.rows, residual.cols, x.dtype);
  Linear(stream, x, weight, nullptr, delta);
  Add(stream, residual, delta);
}

void AddHeadsProjection(Stream& stream, ActivationArena& arena, const OutputNormArgs& norm,
                        Matrix weight, Matrix residual) {
  DecodeLinearArgs args;
  args.input = Input::kHeadsNormed;
  args.x = norm.x;
  args.norm_weight = norm.weight;
  args.eps = norm.eps;
  args.head_dim = norm.head_dim;
  args.normalize = norm.normalize;
  args.gate = norm.gate;
  args.gate_activation = norm.gate_activation;
  args.weight = weight;
  args.output = Output::kAdd;
  args.out = residual;
  if (DecodeLinear(stream, args)) return;
  OutputNorm(stream, norm);
  AddProjection(stream, arena, norm.out, weight, residual);
}

}  // namespace fla
