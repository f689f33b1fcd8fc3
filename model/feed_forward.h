// The feed-forward network of a layer.
#pragma once

#include <string>

#include "model/activation_arena.h"
#include "model/config.h"
#include "model/weights.h"

namespace fla {

// kSwiGlu: down(silu(gate(x)) * up(x)). kGelu: down(gelu(up(x))), with biases.
struct FeedForward {
  FeedForwardKind kind = FeedForwardKind::kSwiGlu;
  Matrix in;                       // kSwiGlu: gate above up, [2 I, D]; kGelu: up [I, D]
  const float* in_bias = nullptr;  // [I]
  Matrix down;                     // [D, I]
  const float* down_bias = nullptr;

  // out [T, D], of x's dtype.
  void Forward(Stream& stream, ActivationArena& arena, Matrix x, Matrix out) const;
};

// Takes the tensors under the layer's prefix.
FeedForward TakeFeedForward(const ModelConfig& config, const std::string& prefix,
                            WeightReader& weights);

}  // namespace fla
