// The token mixer of a layer: one class for the whole family, steered by a MixerSpec.
#pragma once

#include <optional>
#include <string>

#include "kernels/recurrence.h"
#include "model/activation_arena.h"
#include "model/batch_view.h"
#include "model/decode_projections.h"
#include "model/mixer_spec.h"
#include "model/state_pool.h"
#include "model/weights.h"

namespace fla {

// Whether the batch's decode rows leave their updates beside the states, of a pool that can. Few
// rows write them: such a step waits for weights, and has kernels of its own. Not in f32, where
// that would make a sequence's bits depend on its company.
inline constexpr int kMinReplayRows = 16;
inline bool LeavesPending(const BatchView& batch, DType dtype) {
  return batch.num_decode >= kMinReplayRows || dtype == DType::kF32;
}

// project (everything that reads the layer's input, in one GEMM) -> short convolution ->
// feature map and norm of q and k, gates -> recurrence -> output norm and gate -> out projection.
//
// Thread safety: immutable after construction.
class Mixer {
 public:
  // Takes the tensors under `prefix` ("model.layers.3.attn."). max_tokens: largest T.
  Mixer(const MixerSpec& spec, int hidden_size, int max_tokens, const std::string& prefix,
        WeightReader& weights);

  // out [T, D] = mixer(x [T, D]), updating the states of the batch's slots. With `wanted`, which
  // may be none, only these rows of what that would be: out [count, D]. `out` may lie where x does.
  void Forward(Stream& stream, ActivationArena& arena, const BatchView& batch,
               const StatePool::LayerState& state, DType state_dtype, Matrix x,
               const std::optional<PickedRows>& wanted, Matrix out) const;

  // The parts of Forward, for whom runs projections together with what lies around them: packed
  // [T, P] = the input projection of x; what the output projection multiplies, [T, V] or the rows
  // of `wanted`; and its product, out.
  void Project(Stream& stream, Matrix x, Matrix packed) const;
  Matrix Heads(Stream& stream, ActivationArena& arena, const BatchView& batch,
               const StatePool::LayerState& state, DType state_dtype, Matrix packed,
               const std::optional<PickedRows>& wanted) const;
  void ProjectHeads(Stream& stream, Matrix heads, Matrix out) const;
  bool has_biases() const { return input_bias_ != nullptr || output_bias_ != nullptr; }
  const Matrix& input_projection() const { return input_projection_; }
  const Matrix& output_projection() const { return output_projection_; }

  // Forward for a batch of few rows, activations in bf16: sum += mixer(RmsNorm(x)). `sum` may be
  // x.
  void Step(Stream& stream, ActivationArena& arena, const BatchView& batch,
            const StatePool::LayerState& state, DType state_dtype, const NormedResidual& x,
            const std::optional<PickedRows>& wanted, Matrix sum) const;

 private:
  struct LinearMap {
    Matrix weight;
    const float* bias = nullptr;
  };
  // The learned part of a feature map: layer (hedgehog, t2r) or layer1 and layer2.
  struct FeatureMapWeights {
    LinearMap first, second;
  };
  // Where a part of the packed projection's output begins, and how many columns it has.
  struct Columns {
    int64_t begin = 0, count = 0;
    Matrix Of(Matrix packed) const { return packed.Columns(begin, count); }
  };

  void TakePackedProjection(const std::string& prefix, int hidden_size, WeightReader& weights);
  void TakeProjections(const std::string& prefix, int hidden_size, WeightReader& weights);
  void TakeGates(const std::string& prefix, int max_tokens, WeightReader& weights);
  FeatureMapWeights TakeFeatureMap(const std::string& prefix, WeightReader& weights) const;

  // Whether Convolve norms the heads of q and k, too.
  bool ConvolutionNorms() const;
  void Convolve(Stream& stream, ActivationArena& arena, const BatchView& batch,
                const StatePool::LayerState& state, Matrix packed, Matrix& q, Matrix& k,
                Matrix& v) const;
  Matrix MapHeads(Stream& stream, ActivationArena& arena, const FeatureMapWeights& map,
                  HeadNorm norm, const BatchView& batch, Matrix x) const;
  // Between the projections: from the packed projection of x to OutputNorm's arguments, in place.
  OutputNormArgs Mix(Stream& stream, ActivationArena& arena, const BatchView& batch,
                     const StatePool::LayerState& state, DType state_dtype, Matrix packed) const;
  // What lies between the input projection and the output's norm: the recurrence's inputs, and the
  // output gate or an absent matrix. Where the prefill does the last of it itself, `projections` of
  // all rows are present, and the norms, log_decay and beta only made of those that decode.
  struct Inputs {
    Matrix q, k, v;
    const float* log_decay = nullptr;
    const float* beta = nullptr;
    Matrix gate;
    RecurrenceProjections projections;
  };
  // By one kernel; nothing where the backend or the model has none.
  std::optional<Inputs> Prepare(Stream& stream, ActivationArena& arena, const BatchView& batch,
                                const StatePool::LayerState& state, Matrix packed) const;
  // By ops.
  Inputs InputsOf(Stream& stream, ActivationArena& arena, const BatchView& batch,
                  const StatePool::LayerState& state, Matrix packed) const;
  LogDecayArgs LogDecayArgsOf() const;
  // Of all rows behind the convolution; the second half of a low-rank decay is run.
  RecurrenceProjections ProjectionsOf(Stream& stream, ActivationArena& arena, Matrix packed) const;
  // Whether the recurrence reads q and k as they are behind convolution and `projections`.
  bool CanProject() const;
  // Of the first `rows` rows.
  const float* LogDecayOf(Stream& stream, ActivationArena& arena, int64_t rows,
                          LogDecayArgs args) const;
  const float* BetaOf(Stream& stream, ActivationArena& arena, int64_t rows, Matrix x) const;
  void Recur(Stream& stream, const BatchView& batch, const StatePool::LayerState& state,
             DType state_dtype, const Inputs& inputs, Matrix out) const;
  // Instead of Recur where the chunk is a part of the model.
  void AttendChunks(Stream& stream, const BatchView& batch, const StatePool::LayerState& state,
                    DType state_dtype, Matrix q, Matrix k, Matrix v, Matrix out) const;
  void Normalize(Stream& stream, const BatchView& batch, const StatePool::LayerState& state,
                 Matrix q, Matrix k, Matrix out) const;
  Matrix OutputGateOf(Stream& stream, ActivationArena& arena, Matrix packed) const;
  // Whether the output gate's columns of the packed projection can be made apart from the others.
  bool CanPartGate() const;

  MixerSpec spec_;
  Matrix input_projection_;            // all that read x, one below the other
  const float* input_bias_ = nullptr;  // of its rows, or null
  Columns q_, k_, v_, output_gate_, decay_, beta_;
  const float* convolution_ = nullptr;  // [C, W]
  FeatureMapWeights q_map_, k_map_;
  LinearMap decay_map_;        // second half of a low-rank decay projection
  LinearMap output_gate_map_;  // second half of a low-rank output gate
  const float* a_log_ = nullptr;
  const float* dt_bias_ = nullptr;
  const float* head_decay_ = nullptr;     // [H], kRetention
  const float* constant_beta_ = nullptr;  // [max_tokens * H], kOne
  const float* output_norm_ = nullptr;
  Matrix output_projection_;
  const float* output_bias_ = nullptr;  // [D] or null
};

}  // namespace fla
