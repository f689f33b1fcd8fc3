// The norm before a mixer, a feed-forward network or the logits: RMSNorm, or LayerNorm with a bias.
#pragma once

#include <string>

#include "kernels/ops.h"
#include "model/config.h"
#include "model/weights.h"

namespace fla {

struct Norm {
  NormKind kind = NormKind::kRms;
  const float* weight = nullptr;  // [D]
  const float* bias = nullptr;    // [D], kLayer
  float eps = 0.0f;
};

// Takes NAME.weight or, in Axon's layout, NAME.gamma and NAME.beta.
Norm TakeNorm(const ModelConfig& config, const std::string& name, WeightReader& weights);

// Whether a residual stream on a GPU can be folded by it (kernels/folded_residual.h). Waits.
bool IsFoldable(Stream& stream, const Norm& norm, int64_t hidden_size);

// out = norm(x). x may be f32 while out is bf16.
void ApplyNorm(Stream& stream, const Norm& norm, Matrix x, Matrix out);

// residual += delta, then out = norm(residual).
void AddAndNorm(Stream& stream, const Norm& norm, Matrix residual, Matrix delta, Matrix out);

}  // namespace fla
