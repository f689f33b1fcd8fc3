#include "model/feed_forward.h"

#include "kernels/ops.h"
#include "kernels/prefill.h"

namespace fla {

FeedForward TakeFeedForward(const ModelConfig& config, const std::string& prefix,
                            WeightReader& weights) {
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  FeedForward network;
  network.kind = config.feed_forward;
  if (network.kind == FeedForwardKind::kSwiGlu) {
    network.in = weights.PackRows(
        {{prefix + "mlp.gate_proj.weight", inner}, {prefix + "mlp.up_proj.weight", inner}}, hidden);
    network.down = weights.TakeProjection(prefix + "mlp.down_proj.weight", hidden, inner);
    return network;
  }
  network.in = weights.TakeTransposed(prefix + "ffn_up.kernel", hidden, inner);
  network.in_bias = weights.Vector(prefix + "ffn_up.bias", inner);
  network.down = weights.TakeTransposed(prefix + "ffn_down.kernel", inner, hidden);
  network.down_bias = weights.Vector(prefix + "ffn_down.bias", hidden);
  return network;
}

void FeedForward::Forward(Stream& stream, ActivationArena& arena, Matrix x, Matrix out) const {
  // Taken even where nothing is written there: a smaller batch, of which that is not so, finds the
  // memory that the largest one has left.
  const Matrix wide = arena.Take(x.rows, in.rows, x.dtype);
  if (kind == FeedForwardKind::kSwiGlu) {
    const Matrix inner = arena.Take(x.rows, down.cols, x.dtype);
    if (!LinearSwiGlu(stream, x, in, inner)) {
      Linear(stream, x, in, in_bias, wide);
      SwiGlu(stream, wide, inner);
    }
    return Linear(stream, inner, down, down_bias, out);
  }
  Linear(stream, x, in, in_bias, wide);
  ActivateHeads(stream, {.x = wide,
                         .head_dim = static_cast<int>(wide.cols),
                         .activation = Activation::kGelu,
                         .out = wide});
  Linear(stream, wide, down, down_bias, out);
}

}  // namespace fla
