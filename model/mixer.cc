#include "model/mixer.h"

#include <cmath>

#include "kernels/decode.h"
#include "kernels/ops.h"
#include "kernels/prefill.h"
#include "kernels/recurrence.h"

namespace fla {
namespace {

constexpr int kDpfpShifts = 4;                 // nu of the library's DPFPFeatureMap
constexpr int kNarrowRank = 32, kFewRows = 8;  // where Prepare runs a low-rank map itself

float ScaleOf(const MixerSpec& spec) {
  return spec.scale != 0 ? spec.scale : 1.0f / std::sqrt(static_cast<float>(spec.state_k_dim()));
}

Matrix PickRows(Stream& stream, ActivationArena& arena, const PickedRows& wanted, Matrix x) {
  const Matrix picked = arena.Take(wanted.count, x.cols, x.dtype);
  GatherRows(stream, x, wanted.rows, picked);
  return picked;
}

// The norm of these rows alone.
OutputNormArgs Pick(Stream& stream, ActivationArena& arena, const PickedRows& wanted,
                    OutputNormArgs norm) {
  norm.x = norm.out = PickRows(stream, arena, wanted, norm.x);
  if (norm.gate.present()) norm.gate = PickRows(stream, arena, wanted, norm.gate);
  return norm;
}

}  // namespace

ChunkAttentionSpec ChunkAttentionOf(const MixerSpec& spec) {
  const bool softmax = spec.normalization == Normalization::kChunkSoftmax;
  return {.rule = softmax ? ChunkRule::kSoftmax : ChunkRule::kLinear,
          .chunk = spec.chunk_size,
          .heads = spec.heads,
          .key_dim = spec.state_k_dim(),
          .value_dim = spec.head_v_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(spec.head_k_dim)),
          .eps = spec.normalization_eps};
}

RecurrenceSpec RecurrenceOf(const MixerSpec& spec) {
  return {.decay = spec.decay,
          .update = spec.update,
          .key_dim = spec.state_k_dim(),
          .value_dim = spec.head_v_dim,
          .heads = spec.heads,
          .q_heads = spec.q_heads,
          .k_heads = spec.k_heads,
          .v_heads = spec.v_heads,
          .decay_heads = spec.decay_source == DecaySource::kLowRank ? spec.k_heads : spec.heads,
          .scale = ScaleOf(spec)};
}

bool Mixer::ConvolutionNorms() const {
  return spec_.conv_width > 0 && spec_.feature_map == FeatureMap::kIdentity &&
         spec_.q_norm == HeadNorm::kL2 && spec_.k_norm == HeadNorm::kL2;
}

void Mixer::Convolve(Stream& stream, ActivationArena& arena, const BatchView& batch,
                     const StatePool::LayerState& state, Matrix packed, Matrix& q, Matrix& k,
                     Matrix& v) const {
  const int64_t channels = spec_.conv_channels(), taps = spec_.conv_width;
  const int64_t normed = ConvolutionNorms() ? v_.begin : 0;
  const Matrix out = arena.Take(batch.num_tokens, channels, packed.dtype);
  const auto convolve = [&](int64_t begin, int64_t count, Activation activation) {
    ShortConvolution(stream, {.x = packed.Columns(begin, count),
                              .weight = convolution_ + begin * taps,
                              .width = spec_.conv_width,
                              .activation = activation,
                              .state = state.convolution + begin * (taps - 1),
                              .slot_stride = channels * (taps - 1),
                              .slots = batch.slots,
                              .cu_seqlens = batch.cu_seqlens,
                              .cu_seqlens_host = batch.cu_seqlens_host,
                              .num_sequences = batch.num_sequences,
                              .out = out.Columns(begin, count),
                              .normed = begin == 0 ? normed : 0,
                              .head_dim = spec_.head_k_dim,
                              .norm_eps = spec_.qk_norm_eps});
  };
  if (spec_.qk_activation == spec_.v_activation) {
    convolve(0, channels, spec_.v_activation);
  } else {
    convolve(0, v_.begin, spec_.qk_activation);
    convolve(v_.begin, v_.count, spec_.v_activation);
  }
  q = q_.Of(out);
  k = k_.Of(out);
  v = v_.Of(out);
}

// x [T, heads * head_k_dim] -> [T, heads * state_k_dim]: activation (where no convolution has done
// it), feature map, norm. In place where nothing changes the size.
Matrix Mixer::MapHeads(Stream& stream, ActivationArena& arena, const FeatureMapWeights& map,
                       HeadNorm norm, const BatchView& batch, Matrix x) const {
  const int size = spec_.head_k_dim;
  const int64_t tokens = batch.num_tokens, heads = x.cols / size;
  const auto activate = [&](Matrix in, int head_dim, Activation activation, HeadNorm head_norm,
                            Matrix out) {
    if (activation == Activation::kIdentity && head_norm == HeadNorm::kNone &&
        in.data == out.data) {
      return;
    }
    ActivateHeads(stream, {in, head_dim, activation, head_norm, spec_.qk_norm_eps, out});
  };
  const Activation first = spec_.conv_width > 0 ? Activation::kIdentity : spec_.qk_activation;
  if (spec_.feature_map == FeatureMap::kIdentity) {
    activate(x, size, first, norm, x);
    return x;
  }
  if (spec_.feature_map == FeatureMap::kElementwise) {
    activate(x, size, first, HeadNorm::kNone, x);
    activate(x, size, spec_.feature_activation, norm, x);
    return x;
  }
  // The other maps see each head as a row of its own.
  Matrix rows = arena.Take(tokens, x.cols, x.dtype);
  ActivateHeads(stream, {x, size, first, HeadNorm::kNone, 0.0f, rows});
  rows = rows.Reshape(tokens * heads, size);
  const auto linear = [&](const LinearMap& layer) {
    const Matrix out = arena.Take(tokens * heads, size, x.dtype);
    Linear(stream, rows, layer.weight, layer.bias, out);
    return out.Reshape(tokens, heads * size);
  };
  const int state_size = spec_.state_k_dim();
  Matrix out;
  switch (spec_.feature_map) {
    case FeatureMap::kIdentity:
    case FeatureMap::kElementwise:
      break;  // above
    case FeatureMap::kElementwiseProduct: {
      out = linear(map.first);
      Multiply(stream, out, linear(map.second), out);
      break;
    }
    case FeatureMap::kHedgehog:
      out = arena.Take(tokens, heads * state_size, x.dtype);
      HedgehogFeatureMap(stream, linear(map.first), size, out);
      break;
    case FeatureMap::kTransformerToRnn:
      out = linear(map.first);
      activate(out, size, Activation::kRelu, HeadNorm::kNone, out);
      break;
    case FeatureMap::kDpfp:
      out = arena.Take(tokens, heads * state_size, x.dtype);
      DpfpFeatureMap(stream, rows.Reshape(tokens, heads * size), size, kDpfpShifts, out);
      break;
  }
  activate(out, state_size, Activation::kIdentity, norm, out);
  return out;
}

// All but the input and the result.
LogDecayArgs Mixer::LogDecayArgsOf() const {
  LogDecayArgs args;
  const bool low_rank = spec_.decay_source == DecaySource::kLowRank;
  args.kind = low_rank             ? GateKind::kLogSigmoid
              : spec_.gate_bounded ? GateKind::kBoundedSigmoid
                                   : GateKind::kSoftplus;
  args.heads = low_rank ? spec_.k_heads : spec_.heads;
  args.a_log = a_log_;
  args.dt_bias = dt_bias_;
  args.normalizer = spec_.gate_normalizer;
  args.clamp_min = spec_.gate_clamp_min;
  args.lower_bound = spec_.gate_lower_bound;
  return args;
}

RecurrenceProjections Mixer::ProjectionsOf(Stream& stream, ActivationArena& arena,
                                           Matrix packed) const {
  RecurrenceProjections projections;
  projections.q_norm = ConvolutionNorms() ? HeadNorm::kNone : spec_.q_norm;
  projections.k_norm = ConvolutionNorms() ? HeadNorm::kNone : spec_.k_norm;
  projections.norm_eps = spec_.qk_norm_eps;
  if (spec_.decay_source != DecaySource::kNone && spec_.decay_source != DecaySource::kRetention) {
    LogDecayArgs& decay = projections.log_decay;
    decay = LogDecayArgsOf();
    decay.x = decay_.Of(packed);
    if (decay_map_.weight.present()) {
      const Matrix wide = arena.Take(packed.rows, decay_map_.weight.rows, packed.dtype);
      Linear(stream, decay.x, decay_map_.weight, decay_map_.bias, wide);
      decay.x = wide;
    }
  }
  if (spec_.beta == BetaSource::kProjection) {
    projections.beta = beta_.Of(packed);
    projections.beta_scale = spec_.beta_scale;
  }
  return projections;
}

bool Mixer::CanProject() const {
  return spec_.feature_map == FeatureMap::kIdentity &&
         (spec_.conv_width > 0 || spec_.qk_activation == Activation::kIdentity) &&
         spec_.rotary_base == 0 && spec_.normalization == Normalization::kNone;
}

const float* Mixer::LogDecayOf(Stream& stream, ActivationArena& arena, int64_t rows,
                               LogDecayArgs args) const {
  if (!args.x.present()) return head_decay_;  // or null
  args.x = args.x.Rows(0, rows);
  args.out = static_cast<float*>(arena.Take(rows, args.x.cols, DType::kF32).data);
  LogDecay(stream, args);
  return args.out;
}

const float* Mixer::BetaOf(Stream& stream, ActivationArena& arena, int64_t rows, Matrix x) const {
  if (!x.present()) return constant_beta_;  // or null
  auto* beta = static_cast<float*>(arena.Take(rows, spec_.heads, DType::kF32).data);
  Beta(stream, x.Rows(0, rows), spec_.beta_scale, beta);
  return beta;
}

// Decode rows in one step, prompts in chunks; both read and write the same states.
void Mixer::Recur(Stream& stream, const BatchView& batch, const StatePool::LayerState& state,
                  DType state_dtype, const Inputs& inputs, Matrix out) const {
  const int decode = batch.num_decode, prompts = batch.num_sequences - decode;
  RecurrenceArgs args;
  args.spec = RecurrenceOf(spec_);
  args.state = state.recurrent;
  args.state_dtype = state_dtype;
  const auto part = [&](int64_t begin, int64_t count) {
    args.q = inputs.q.Rows(begin, count);
    args.k = inputs.k.Rows(begin, count);
    args.v = inputs.v.Rows(begin, count);
    args.out = out.Rows(begin, count);
  };
  if (decode > 0) {
    part(0, decode);
    args.log_decay = inputs.log_decay;
    args.beta = inputs.beta;
    args.slots = batch.slots;
    args.cu_seqlens = batch.cu_seqlens;
    args.cu_seqlens_host = batch.cu_seqlens_host;
    args.num_sequences = decode;
    if (LeavesPending(batch, out.dtype)) args.replay = state.replay;
    RecurrentStep(stream, args);
    args.replay = {};
  }
  if (prompts > 0) {
    const int64_t tokens = batch.num_tokens - decode;
    part(decode, tokens);
    args.projections = inputs.projections;
    Matrix& gates = args.projections.log_decay.x;
    Matrix& beta = args.projections.beta;
    if (gates.present()) gates = gates.Rows(decode, tokens);
    if (beta.present()) beta = beta.Rows(decode, tokens);
    const RecurrenceSpec& spec = args.spec;
    const int64_t decay_columns = spec.decay == Decay::kPerChannel
                                      ? static_cast<int64_t>(spec.decay_heads) * spec.key_dim
                                  : spec.decay == Decay::kPerToken ? spec.decay_heads
                                                                   : 0;
    const auto behind = [&](const float* rows, int64_t columns, bool projected) {
      return rows == nullptr || projected ? nullptr : rows + decode * columns;
    };
    args.log_decay = behind(inputs.log_decay, decay_columns, gates.present());
    args.beta = behind(inputs.beta, spec.heads, beta.present());
    args.slots = batch.slots + decode;
    args.cu_seqlens = batch.prompt_cu_seqlens;
    args.cu_seqlens_host = batch.prompt_cu_seqlens_host;
    args.num_sequences = prompts;
    ChunkedPrefill(stream, args);
  }
}

void Mixer::Normalize(Stream& stream, const BatchView& batch, const StatePool::LayerState& state,
                      Matrix q, Matrix k, Matrix out) const {
  Normalizer(stream, {.q = q,
                      .k = k,
                      .key_dim = spec_.state_k_dim(),
                      .value_dim = spec_.head_v_dim,
                      .heads = spec_.heads,
                      .k_heads = spec_.k_heads,
                      .scale = ScaleOf(spec_),
                      .eps = spec_.normalization_eps,
                      .state = state.normalizer,
                      .slots = batch.slots,
                      .cu_seqlens = batch.cu_seqlens,
                      .cu_seqlens_host = batch.cu_seqlens_host,
                      .num_sequences = batch.num_sequences,
                      .out = out});
}

void Mixer::AttendChunks(Stream& stream, const BatchView& batch, const StatePool::LayerState& state,
                         DType state_dtype, Matrix q, Matrix k, Matrix v, Matrix out) const {
  ChunkAttention(stream, {.spec = ChunkAttentionOf(spec_),
                          .q = q,
                          .k = k,
                          .v = v,
                          .state = state.recurrent,
                          .state_dtype = state_dtype,
                          .normalizer = state.normalizer,
                          .open = state.open_chunk,
                          .positions = batch.positions,
                          .slots = batch.slots,
                          .cu_seqlens = batch.cu_seqlens,
                          .cu_seqlens_host = batch.cu_seqlens_host,
                          .num_sequences = batch.num_sequences,
                          .out = out});
}

Matrix Mixer::OutputGateOf(Stream& stream, ActivationArena& arena, Matrix packed) const {
  switch (spec_.output_gate) {
    case OutputGate::kNone:
      return {};
    case OutputGate::kProjection:
      return output_gate_.Of(packed);
    case OutputGate::kLowRank:
      break;
  }
  const Matrix gate = arena.Take(packed.rows, spec_.value_dim(), packed.dtype);
  Linear(stream, output_gate_.Of(packed), output_gate_map_.weight, output_gate_map_.bias, gate);
  return gate;
}

std::optional<Mixer::Inputs> Mixer::Prepare(Stream& stream, ActivationArena& arena,
                                            const BatchView& batch,
                                            const StatePool::LayerState& state,
                                            Matrix packed) const {
  if (batch.num_decode < batch.num_tokens || packed.dtype != DType::kBF16) return {};
  if (spec_.feature_map != FeatureMap::kIdentity) return {};
  const bool convolved = spec_.conv_width > 0;
  PrepareStepArgs args;
  args.q = q_.Of(packed);
  args.k = k_.Of(packed);
  args.v = v_.Of(packed);
  const Matrix out =
      convolved ? arena.Take(packed.rows, spec_.conv_channels(), packed.dtype) : packed;
  args.q_out = q_.Of(out);
  args.k_out = k_.Of(out);
  args.v_out = v_.Of(out);
  args.head_k_dim = spec_.head_k_dim;
  args.head_v_dim = spec_.head_v_dim;
  args.width = spec_.conv_width;
  args.taps = convolution_;
  args.state = state.convolution;
  args.slot_stride = int64_t{spec_.conv_channels()} * (spec_.conv_width - 1);
  args.slots = batch.slots;
  args.qk_activation = spec_.qk_activation;
  args.v_activation = spec_.v_activation;
  args.q_norm = spec_.q_norm;
  args.k_norm = spec_.k_norm;
  args.norm_eps = spec_.qk_norm_eps;
  args.rotary_base = spec_.rotary_base;
  args.positions = batch.positions;

  Inputs inputs = {args.q_out, args.k_out, args.v_out};
  inputs.log_decay = spec_.decay_source == DecaySource::kRetention ? head_decay_ : nullptr;
  const bool has_gates =
      spec_.decay_source != DecaySource::kNone && spec_.decay_source != DecaySource::kRetention;
  // Each row reads all of a low-rank map: for many rows a GEMM does it better.
  const auto maps_itself = [&](const LinearMap& map) {
    return map.weight.present() && (map.weight.cols <= kNarrowRank || packed.rows <= kFewRows);
  };
  if (has_gates) {
    args.decay = LogDecayArgsOf();
    args.decay.x = decay_.Of(packed);
    int64_t columns = args.decay.x.cols;
    if (decay_map_.weight.present()) {
      columns = decay_map_.weight.rows;
      if (maps_itself(decay_map_)) {
        args.decay_map = {decay_map_.weight, decay_map_.bias};
      } else {
        const Matrix wide = arena.Take(packed.rows, columns, packed.dtype);
        Linear(stream, args.decay.x, decay_map_.weight, decay_map_.bias, wide);
        args.decay.x = wide;
      }
    }
    args.decay.out = static_cast<float*>(arena.Take(packed.rows, columns, DType::kF32).data);
    inputs.log_decay = args.decay.out;
  }
  inputs.beta = spec_.beta == BetaSource::kOne ? constant_beta_ : nullptr;
  if (spec_.beta == BetaSource::kProjection) {
    args.beta = beta_.Of(packed);
    args.beta_scale = spec_.beta_scale;
    args.beta_out = static_cast<float*>(arena.Take(packed.rows, spec_.heads, DType::kF32).data);
    inputs.beta = args.beta_out;
  }
  if (maps_itself(output_gate_map_)) {
    args.gate_x = output_gate_.Of(packed);
    args.gate_map = {output_gate_map_.weight, output_gate_map_.bias};
    args.gate_out = arena.Take(packed.rows, spec_.value_dim(), packed.dtype);
  }
  if (!PrepareStep(stream, args)) return {};
  inputs.gate = args.gate_out.present() ? args.gate_out : OutputGateOf(stream, arena, packed);
  return inputs;
}

Mixer::Inputs Mixer::InputsOf(Stream& stream, ActivationArena& arena, const BatchView& batch,
                              const StatePool::LayerState& state, Matrix packed) const {
  Matrix q = q_.Of(packed), k = k_.Of(packed), v = v_.Of(packed);
  if (spec_.conv_width > 0) {
    Convolve(stream, arena, batch, state, packed, q, k, v);
  } else if (spec_.v_activation != Activation::kIdentity) {
    ActivateHeads(stream, {v, spec_.head_v_dim, spec_.v_activation, HeadNorm::kNone, 0.0f, v});
  }
  Inputs inputs;
  inputs.gate = OutputGateOf(stream, arena, packed);
  const RecurrenceProjections projections = ProjectionsOf(stream, arena, packed);
  if (batch.num_decode < batch.num_tokens && projections.present() && CanProject()) {
    RecurrenceArgs args;
    args.spec = RecurrenceOf(spec_);
    args.q = q, args.k = k, args.v = v;
    args.projections = projections;
    if (TakesProjections(stream, args)) inputs.projections = projections;
  }
  inputs.q = q, inputs.k = k, inputs.v = v;
  // By ops the other rows, in place where some are left as they are.
  const bool projected = inputs.projections.present();
  const int64_t rows = projected ? batch.num_decode : batch.num_tokens;
  q = q.Rows(0, rows);
  k = k.Rows(0, rows);
  const auto map = [&](const FeatureMapWeights& weights, HeadNorm norm, Matrix heads) {
    heads = MapHeads(stream, arena, weights, norm, batch, heads);
    if (spec_.rotary_base > 0) {
      Rotary(stream, heads, spec_.head_k_dim, spec_.rotary_base, batch.positions);
    }
    return heads;
  };
  const HeadNorm q_norm = projections.q_norm, k_norm = projections.k_norm;
  if (spec_.feature_map == FeatureMap::kIdentity && q_norm == k_norm &&
      k_.begin == q_.begin + q_.count) {
    map(q_map_, q_norm, q.Columns(0, q.cols + k.cols));  // in place, side by side
  } else {
    q = map(q_map_, q_norm, q);
    k = map(k_map_, k_norm, k);
  }
  if (!projected) inputs.q = q, inputs.k = k;
  inputs.log_decay = LogDecayOf(stream, arena, rows, projections.log_decay);
  inputs.beta = BetaOf(stream, arena, rows, projections.beta);
  return inputs;
}

OutputNormArgs Mixer::Mix(Stream& stream, ActivationArena& arena, const BatchView& batch,
                          const StatePool::LayerState& state, DType state_dtype,
                          Matrix packed) const {
  std::optional<Inputs> prepared = Prepare(stream, arena, batch, state, packed);
  const Inputs inputs = prepared ? *prepared : InputsOf(stream, arena, batch, state, packed);

  const Matrix mixed = arena.Take(batch.num_tokens, spec_.value_dim(), packed.dtype);
  if (spec_.has_open_chunk()) {
    AttendChunks(stream, batch, state, state_dtype, inputs.q, inputs.k, inputs.v, mixed);
  } else {
    Recur(stream, batch, state, state_dtype, inputs, mixed);
    if (spec_.normalization == Normalization::kSum) {
      Normalize(stream, batch, state, inputs.q, inputs.k, mixed);
    }
  }
  return {.x = mixed,
          .head_dim = spec_.head_v_dim,
          .normalize = spec_.output_norm,
          .weight = output_norm_,
          .eps = spec_.norm_eps,
          .gate = inputs.gate,
          .gate_activation = spec_.output_gate_activation,
          .out = mixed};
}

bool Mixer::CanPartGate() const {
  return spec_.output_gate == OutputGate::kProjection && input_bias_ == nullptr &&
         !input_projection_.packed;
}

void Mixer::Forward(Stream& stream, ActivationArena& arena, const BatchView& batch,
                    const StatePool::LayerState& state, DType state_dtype, Matrix x,
                    const std::optional<PickedRows>& wanted, Matrix out) const {
  const Matrix packed = arena.Take(batch.num_tokens, input_projection_.rows, x.dtype);
  const int64_t gate = output_gate_.begin;
  const bool part_gate = wanted && CanPartGate();
  // What gates the output is not wanted before the recurrence has ended.
  const bool late_gate = !wanted && CanPartGate() && batch.num_decode == 0 &&
                         batch.num_sequences == 1 && !spec_.has_open_chunk() &&
                         LeavesRoom(stream, RecurrenceOf(spec_), batch.num_tokens) &&
                         LateLinear(stream, x, input_projection_, gate, packed);
  if (part_gate) {
    Linear(stream, x, input_projection_.Rows(0, gate), nullptr, packed.Columns(0, gate));
  } else if (!late_gate) {
    Project(stream, x, packed);
  }
  OutputNormArgs norm = Mix(stream, arena, batch, state, state_dtype, packed);
  if (late_gate) AwaitLate(stream);
  if (wanted) {
    if (wanted->count == 0) return;
    if (part_gate) norm.gate = {};
    norm = Pick(stream, arena, *wanted, norm);
    if (part_gate) {
      const Matrix picked = PickRows(stream, arena, *wanted, x);
      norm.gate = arena.Take(wanted->count, output_gate_.count, x.dtype);
      Linear(stream, picked, input_projection_.Rows(gate, output_gate_.count), nullptr, norm.gate);
    }
  }
  if (norm.normalize || norm.gate.present()) OutputNorm(stream, norm);
  ProjectHeads(stream, norm.out, out);
}

void Mixer::Project(Stream& stream, Matrix x, Matrix packed) const {
  Linear(stream, x, input_projection_, input_bias_, packed);
}

Matrix Mixer::Heads(Stream& stream, ActivationArena& arena, const BatchView& batch,
                    const StatePool::LayerState& state, DType state_dtype, Matrix packed,
                    const std::optional<PickedRows>& wanted) const {
  OutputNormArgs norm = Mix(stream, arena, batch, state, state_dtype, packed);
  if (wanted) {
    if (wanted->count == 0) return {};
    norm = Pick(stream, arena, *wanted, norm);
  }
  if (norm.normalize || norm.gate.present()) OutputNorm(stream, norm);
  return norm.out;
}

void Mixer::ProjectHeads(Stream& stream, Matrix heads, Matrix out) const {
  Linear(stream, heads, output_projection_, output_bias_, out);
}

void Mixer::Step(Stream& stream, ActivationArena& arena, const BatchView& batch,
                 const StatePool::LayerState& state, DType state_dtype, const NormedResidual& x,
                 const std::optional<PickedRows>& wanted, Matrix sum) const {
  const Matrix packed = arena.Take(batch.num_tokens, input_projection_.rows, DType::kBF16);
  ProjectNormed(stream, arena, x, input_projection_, packed);
  OutputNormArgs norm = Mix(stream, arena, batch, state, state_dtype, packed);
  if (wanted) {
    if (wanted->count == 0) return;
    norm = Pick(stream, arena, *wanted, norm);
  }
  AddHeadsProjection(stream, arena, norm, output_projection_, sum);
}

}  // namespace fla
