// What a mixer takes out of a checkpoint.
#include <cmath>
#include <vector>

#include "model/mixer.h"

namespace fla {
namespace {

constexpr int64_t kColumnAlignment = 8;  // keeps rows of a packed projection 16-byte aligned

}  // namespace

Mixer::Mixer(const MixerSpec& spec, int hidden_size, int max_tokens, const std::string& prefix,
             WeightReader& weights)
    : spec_(spec) {
  if (spec_.layout == TensorLayout::kAxon) {
    TakePackedProjection(prefix, hidden_size, weights);
    return;
  }
  TakeProjections(prefix, hidden_size, weights);
  if (spec_.conv_width > 0) {
    const int64_t width = spec_.conv_width;
    convolution_ =
        weights.Concatenate({{prefix + "q_conv1d.weight", {spec_.key_dim(), 1, width}},
                             {prefix + "k_conv1d.weight", {spec_.kv_key_dim(), 1, width}},
                             {prefix + "v_conv1d.weight", {spec_.kv_value_dim(), 1, width}}});
  }
  q_map_ = TakeFeatureMap(prefix + "feature_map_q.", weights);
  if (spec_.tied_feature_map) {
    k_map_ = q_map_;
    for (const char* layer : {"layer", "layer1", "layer2"}) {
      for (const char* part : {".weight", ".bias"}) {
        weights.Skip(prefix + "feature_map_k." + layer + part);
      }
    }
  } else {
    k_map_ = TakeFeatureMap(prefix + "feature_map_k.", weights);
  }
  TakeGates(prefix, max_tokens, weights);
  if (spec_.output_norm && spec_.output_norm_weight) {
    output_norm_ = weights.Vector(prefix + spec_.output_norm_name + ".weight", spec_.head_v_dim);
  }
  output_projection_ =
      weights.TakeProjection(prefix + "o_proj.weight", hidden_size, spec_.value_dim());
}

// The layout of models that have q, k, v and an output projection, and no more.
void Mixer::TakePackedProjection(const std::string& prefix, int hidden_size,
                                 WeightReader& weights) {
  q_ = {0, spec_.key_dim()};
  k_ = {q_.count, spec_.kv_key_dim()};
  v_ = {k_.begin + k_.count, spec_.kv_value_dim()};
  const int64_t columns = v_.begin + v_.count;
  input_projection_ = weights.TakeTransposed(prefix + "qkv.kernel", hidden_size, columns);
  input_bias_ = weights.Vector(prefix + "qkv.bias", columns);
  output_projection_ =
      weights.TakeTransposed(prefix + "out.kernel", spec_.value_dim(), hidden_size);
  output_bias_ = weights.Vector(prefix + "out.bias", hidden_size);
}

void Mixer::TakeProjections(const std::string& prefix, int hidden_size, WeightReader& weights) {
  std::vector<WeightReader::Block> blocks;
  int64_t columns = 0;
  const auto add = [&](const std::string& name, int64_t count) {
    blocks.push_back({name.empty() ? name : prefix + name, count});
    columns += count;
    return Columns{columns - count, count};
  };
  q_ = add("q_proj.weight", spec_.key_dim());
  k_ = add("k_proj.weight", spec_.kv_key_dim());
  v_ = add("v_proj.weight", spec_.kv_value_dim());
  if (spec_.output_gate == OutputGate::kLowRank) {
    output_gate_ = add("g_proj.0.weight", spec_.output_gate_low_rank);
  }
  if (spec_.decay_source == DecaySource::kLowRank) {
    decay_ = add("gk_proj.0.weight", spec_.gate_low_rank);
  } else if (spec_.decay_source == DecaySource::kPerChannelF) {
    decay_ = add("f_proj.0.weight", spec_.gate_low_rank);
  } else if (spec_.decay_source == DecaySource::kPerHeadA) {
    decay_ = add("a_proj.weight", spec_.heads);
  }
  if (spec_.beta == BetaSource::kProjection) beta_ = add("b_proj.weight", spec_.heads);
  const auto align = [&] {
    if (columns % kColumnAlignment != 0) add("", kColumnAlignment - columns % kColumnAlignment);
  };
  align();
  // Last, for it may come later than the others.
  if (spec_.output_gate == OutputGate::kProjection) {
    output_gate_ = add("g_proj.weight", spec_.value_dim());
    align();
  }
  input_projection_ = weights.PackRows(blocks, hidden_size);
}

void Mixer::TakeGates(const std::string& prefix, int max_tokens, WeightReader& weights) {
  switch (spec_.decay_source) {
    case DecaySource::kNone:
      break;
    case DecaySource::kRetention: {
      std::vector<float> decay(spec_.heads);
      for (int head = 0; head < spec_.heads; ++head) {
        decay[head] = static_cast<float>(std::log1p(-std::exp2(-5.0 - head)));
      }
      head_decay_ = weights.Constant(decay);
      break;
    }
    case DecaySource::kLowRank:
      decay_map_ = {
          weights.Take(prefix + "gk_proj.1.weight", spec_.kv_key_dim(), spec_.gate_low_rank),
          weights.Vector(prefix + "gk_proj.1.bias", spec_.kv_key_dim())};
      break;
    case DecaySource::kPerHeadA:
      a_log_ = weights.Vector(prefix + "A_log", spec_.heads);
      dt_bias_ = weights.Vector(prefix + "dt_bias", spec_.heads);
      break;
    case DecaySource::kPerChannelF: {
      const int64_t channels = static_cast<int64_t>(spec_.heads) * spec_.head_k_dim;
      decay_map_.weight = weights.Take(prefix + "f_proj.1.weight", channels, spec_.gate_low_rank);
      a_log_ = weights.Vector(prefix + "A_log", spec_.heads);
      dt_bias_ = weights.Vector(prefix + "dt_bias", channels);
      break;
    }
  }
  if (spec_.beta == BetaSource::kOne) {
    constant_beta_ = weights.Constant(
        std::vector<float>(static_cast<size_t>(max_tokens) * spec_.heads, spec_.beta_scale));
  }
  if (spec_.output_gate == OutputGate::kLowRank) {
    output_gate_map_ = {
        weights.Take(prefix + "g_proj.1.weight", spec_.value_dim(), spec_.output_gate_low_rank),
        weights.Vector(prefix + "g_proj.1.bias", spec_.value_dim())};
  }
}

Mixer::FeatureMapWeights Mixer::TakeFeatureMap(const std::string& prefix,
                                               WeightReader& weights) const {
  const int64_t size = spec_.head_k_dim;
  const auto take = [&](const std::string& layer, bool bias) {
    return LinearMap{weights.Take(prefix + layer + ".weight", size, size),
                     bias ? weights.Vector(prefix + layer + ".bias", size) : nullptr};
  };
  switch (spec_.feature_map) {
    case FeatureMap::kElementwiseProduct:
      return {take("layer1", true), take("layer2", true)};
    case FeatureMap::kHedgehog:
      return {take("layer", true), {}};
    case FeatureMap::kTransformerToRnn:
      return {take("layer", false), {}};
    case FeatureMap::kIdentity:
    case FeatureMap::kElementwise:
    case FeatureMap::kDpfp:
      return {};
  }
  return {};
}

}  // namespace fla
