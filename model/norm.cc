#include "model/norm.h"

#include <algorithm>
#include <vector>

#include "kernels/folded_residual.h"

namespace fla {

Norm TakeNorm(const ModelConfig& config, const std::string& name, WeightReader& weights) {
  Norm norm;
  norm.kind = config.norm;
  norm.eps = config.norm_eps;
  const bool axon = config.mixer.layout == TensorLayout::kAxon;
  norm.weight = weights.Vector(name + (axon ? ".gamma" : ".weight"), config.hidden_size);
  if (norm.kind == NormKind::kLayer) {
    norm.bias = weights.Vector(name + (axon ? ".beta" : ".bias"), config.hidden_size);
  }
  return norm;
}

bool IsFoldable(Stream& stream, const Norm& norm, int64_t hidden_size) {
  if (norm.kind != NormKind::kRms) return false;
  std::vector<float> weight(static_cast<size_t>(hidden_size));
  stream.CopyToHost(weight.data(), norm.weight, weight.size() * sizeof(float));
  stream.Synchronize();
  return std::all_of(weight.begin(), weight.end(), [](float w) { return IsFoldable(w); });
}

void ApplyNorm(Stream& stream, const Norm& norm, Matrix x, Matrix out) {
  if (norm.kind == NormKind::kRms) return RmsNorm(stream, x, norm.weight, norm.eps, out);
  LayerNorm(stream, {x, {}, norm.weight, norm.bias, norm.eps, out});
}

void AddAndNorm(Stream& stream, const Norm& norm, Matrix residual, Matrix delta, Matrix out) {
  if (norm.kind == NormKind::kRms) {
    return AddRmsNorm(stream, residual, delta, norm.weight, norm.eps, out);
  }
  LayerNorm(stream, {residual, delta, norm.weight, norm.bias, norm.eps, out});
}

}  // namespace fla
