#include "model/architectures.h"

#include <array>
#include <string>

#include "model/architecture_options.h"

namespace fla {
namespace {

constexpr int kDefaultHiddenSize = 2048;
constexpr int kMaxChunkSize = 4096;   // bounds a sequence's open chunk and a kernel's scores
constexpr float kL2NormEps = 1e-6f;   // of the library's in-kernel q/k norm
constexpr float kSumNormEps = 1e-4f;  // of linear_attn's norm_q and norm_k

Activation ReadActivation(const ConfigReader& config, const std::string& key,
                          const std::string& fallback) {
  const std::string name = config.Choice(key, fallback);
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "relu") return Activation::kRelu;
  if (name == "elu") return Activation::kEluPlusOne;
  if (name == "sigmoid") return Activation::kSigmoid;
  return Activation::kIdentity;
}

void ReadConvolution(const ConfigReader& config, bool by_default, MixerSpec& mixer) {
  if (!config.Bool("use_short_conv", by_default)) return;
  mixer.conv_width = config.Int("conv_size", 4);
  if (mixer.conv_width < 2 || mixer.conv_width > 8) config.FailValue("conv_size", "2 to 8");
}

// Heads of models whose key and value sizes follow from the hidden size: linear_attn, retnet, gla
// (with grouped key/value heads) and delta_net (without).
void ReadExpandedHeads(const ConfigReader& config, int hidden_size, int num_heads, float expand_k,
                       float expand_v, bool grouped, MixerSpec& mixer) {
  mixer.heads = mixer.q_heads = config.PositiveInt("num_heads", num_heads);
  const int kv_heads = grouped ? config.PositiveInt("num_kv_heads", mixer.heads) : mixer.heads;
  config.Divided("num_heads", mixer.heads, kv_heads);
  mixer.k_heads = mixer.v_heads = kv_heads;
  const int key_dim =
      config.Scaled("hidden_size * expand_k", hidden_size, config.Float("expand_k", expand_k));
  const int value_dim =
      config.Scaled("hidden_size * expand_v", hidden_size, config.Float("expand_v", expand_v));
  mixer.head_k_dim = config.Divided("hidden_size * expand_k", key_dim, mixer.heads);
  mixer.head_v_dim = config.Divided("hidden_size * expand_v", value_dim, mixer.heads);
}

// Heads of gated_deltanet and kda: given sizes, value heads a multiple of the key heads.
void ReadGroupedValueHeads(const ConfigReader& config, int num_heads, int head_dim, float expand_v,
                           MixerSpec& mixer) {
  mixer.q_heads = mixer.k_heads = config.PositiveInt("num_heads", num_heads);
  mixer.heads = mixer.v_heads = config.PositiveInt("num_v_heads", mixer.q_heads);
  config.Divided("num_v_heads", mixer.heads, mixer.q_heads);
  mixer.head_k_dim = config.PositiveInt("head_dim", head_dim);
  mixer.head_v_dim =
      config.Scaled("head_dim * expand_v", mixer.head_k_dim, config.Float("expand_v", expand_v));
}

// The output gate and norm that retnet and gla share: one fused module or two, by their names.
void ReadSwishGate(const ConfigReader& config, MixerSpec& mixer) {
  const bool gated = config.Bool("use_output_gate", true);
  const Activation gate = ReadActivation(config, "hidden_act", "swish");
  mixer.output_gate = gated ? OutputGate::kProjection : OutputGate::kNone;
  mixer.output_gate_activation = gate;
  const bool fused = gated && gate == Activation::kSilu && config.Bool("fuse_norm", true);
  mixer.output_norm_name = fused ? "g_norm_swish_gate" : "g_norm";
  mixer.output_norm_weight = config.Bool("elementwise_affine", true);
}

void ReadElementwiseFeatureMap(const ConfigReader& config, MixerSpec& mixer) {
  if (config.Missing("feature_map")) return;
  mixer.feature_map = FeatureMap::kElementwise;
  mixer.feature_activation = ReadActivation(config, "feature_map", "");
}

MixerSpec ReadLinearAttention(const ConfigReader& config, int hidden_size) {
  MixerSpec mixer;
  ReadExpandedHeads(config, hidden_size, 4, 1.0f, 1.0f, true, mixer);
  const std::string map = config.Choice("feature_map", "elementwise_product");
  if (map == "elementwise_product") {
    mixer.feature_map = FeatureMap::kElementwiseProduct;
  } else if (map == "hedgehog") {
    mixer.feature_map = FeatureMap::kHedgehog;
  } else if (map == "t2r") {
    mixer.feature_map = FeatureMap::kTransformerToRnn;
  } else if (map == "dpfp") {
    mixer.feature_map = FeatureMap::kDpfp;
  } else if (map == "elu" || map == "relu") {
    mixer.feature_map = FeatureMap::kElementwise;
    mixer.feature_activation = ReadActivation(config, "feature_map", map);
  }
  mixer.tied_feature_map = config.Bool("tie_feature_map_qk", false);
  if (config.Bool("norm_q", false)) mixer.q_norm = HeadNorm::kSum;
  if (config.Bool("norm_k", false)) mixer.k_norm = HeadNorm::kSum;
  mixer.qk_norm_eps = kSumNormEps;
  if (config.Bool("norm_feature_map", false)) mixer.normalization = Normalization::kSum;
  mixer.output_norm_name = "norm";
  mixer.output_norm_weight = config.Bool("elementwise_affine", true);
  return mixer;
}

MixerSpec ReadRetNet(const ConfigReader& config, int hidden_size) {
  MixerSpec mixer;
  mixer.decay = Decay::kPerHead;
  mixer.decay_source = DecaySource::kRetention;
  ReadExpandedHeads(config, hidden_size, 8, 1.0f, 2.0f, true, mixer);
  ReadConvolution(config, false, mixer);
  if (mixer.conv_width > 0) mixer.qk_activation = mixer.v_activation = Activation::kSilu;
  ReadElementwiseFeatureMap(config, mixer);
  config.Divided("head dim of q and k", mixer.head_k_dim, 2);
  mixer.rotary_base = 10000.0f;
  ReadSwishGate(config, mixer);
  return mixer;
}

MixerSpec ReadGla(const ConfigReader& config, int hidden_size) {
  MixerSpec mixer;
  mixer.decay = Decay::kPerChannel;
  mixer.decay_source = DecaySource::kLowRank;
  mixer.gate_low_rank = 16;
  mixer.gate_normalizer = 16.0f;
  if (const auto clamp = config.OptionalFloat("clamp_min")) mixer.gate_clamp_min = *clamp;
  ReadExpandedHeads(config, hidden_size, 4, 0.5f, 1.0f, true, mixer);
  ReadConvolution(config, false, mixer);
  if (mixer.conv_width > 0) mixer.qk_activation = mixer.v_activation = Activation::kSilu;
  ReadElementwiseFeatureMap(config, mixer);
  ReadSwishGate(config, mixer);
  return mixer;
}

MixerSpec ReadDeltaNet(const ConfigReader& config, int hidden_size) {
  MixerSpec mixer;
  mixer.update = Update::kDelta;
  ReadExpandedHeads(config, hidden_size, 16, 1.0f, 1.0f, false, mixer);
  ReadConvolution(config, true, mixer);
  mixer.v_activation = Activation::kSilu;
  mixer.qk_activation = ReadActivation(config, "qk_activation", "silu");
  const std::string norm = config.Choice("qk_norm", "l2");
  mixer.q_norm = mixer.k_norm = norm == "l2" ? HeadNorm::kL2 : HeadNorm::kL1;
  mixer.qk_norm_eps = kL2NormEps;
  mixer.beta = config.Bool("use_beta", true) ? BetaSource::kProjection : BetaSource::kOne;
  mixer.beta_scale = config.Bool("allow_neg_eigval", false) ? 2.0f : 1.0f;
  mixer.output_norm_name = "o_norm";
  mixer.output_gate = config.Bool("use_gate", false) ? OutputGate::kProjection : OutputGate::kNone;
  return mixer;
}

// What gated_deltanet and kda share.
MixerSpec ReadGatedDelta(const ConfigReader& config, int num_heads, int head_dim, float expand_v) {
  MixerSpec mixer;
  mixer.update = Update::kDelta;
  ReadGroupedValueHeads(config, num_heads, head_dim, expand_v, mixer);
  ReadConvolution(config, true, mixer);
  mixer.qk_activation = mixer.v_activation = Activation::kSilu;
  mixer.q_norm = mixer.k_norm = HeadNorm::kL2;
  mixer.qk_norm_eps = kL2NormEps;
  mixer.beta = BetaSource::kProjection;
  mixer.beta_scale = config.Bool("allow_neg_eigval", false) ? 2.0f : 1.0f;
  mixer.output_norm_name = "o_norm";
  return mixer;
}

MixerSpec ReadGatedDeltaNet(const ConfigReader& config, int) {
  MixerSpec mixer = ReadGatedDelta(config, 6, 256, 2.0f);
  mixer.decay = Decay::kPerToken;
  mixer.decay_source = DecaySource::kPerHeadA;
  if (config.Bool("use_gate", true)) {
    mixer.output_gate = OutputGate::kProjection;
    mixer.output_gate_activation = ReadActivation(config, "output_gate_activation", "swish");
  }
  return mixer;
}

MixerSpec ReadKda(const ConfigReader& config, int) {
  MixerSpec mixer = ReadGatedDelta(config, 16, 128, 1.0f);
  mixer.decay = Decay::kPerChannel;
  mixer.decay_source = DecaySource::kPerChannelF;
  mixer.gate_low_rank = mixer.head_v_dim;
  if (const auto bound = config.OptionalFloat("lower_bound")) {
    if (*bound >= 0) config.FailValue("lower_bound", "a negative number");
    mixer.gate_bounded = true;
    mixer.gate_lower_bound = *bound;
  } else if (config.Bool("safe_gate", false)) {
    config.FailValue("lower_bound", "a number, since safe_gate is set");
  }
  mixer.output_gate = OutputGate::kLowRank;
  mixer.output_gate_low_rank = mixer.head_v_dim;
  mixer.output_gate_activation = Activation::kSigmoid;
  return mixer;
}

// Blocks of Edifice: heads of equal size, unscaled scores, one packed projection with biases.
MixerSpec ReadEdificeMixer(const ConfigReader& config, int hidden_size, int num_heads) {
  MixerSpec mixer;
  mixer.layout = TensorLayout::kAxon;
  mixer.heads = mixer.q_heads = mixer.k_heads = mixer.v_heads =
      config.PositiveInt("num_heads", num_heads);
  mixer.head_k_dim = mixer.head_v_dim = config.Divided("hidden_size", hidden_size, mixer.heads);
  mixer.output_norm = false;
  mixer.scale = 1.0f;
  mixer.normalization_eps = 1e-8f;
  mixer.chunk_size = config.PositiveInt("chunk_size", 64);
  if (mixer.chunk_size > kMaxChunkSize) {
    config.FailValue("chunk_size", "at most " + std::to_string(kMaxChunkSize));
  }
  return mixer;
}

MixerSpec ReadFlashLinearAttention(const ConfigReader& config, int hidden_size) {
  MixerSpec mixer = ReadEdificeMixer(config, hidden_size, 4);
  const std::string map = config.Choice("feature_map", "elu");
  if (map == "elu" || map == "relu") {
    mixer.feature_map = FeatureMap::kElementwise;
    mixer.feature_activation = map == "elu" ? Activation::kEluPlusOne : Activation::kReluPlusEps;
  }
  const std::string normalization = config.Choice("normalization", "split");
  if (normalization == "split") {
    mixer.normalization = Normalization::kSplit;
  } else if (normalization == "sum") {
    mixer.normalization = Normalization::kSum;
  }
  return mixer;
}

MixerSpec ReadLightningAttention(const ConfigReader& config, int hidden_size) {
  MixerSpec mixer = ReadEdificeMixer(config, hidden_size, 8);
  mixer.normalization = Normalization::kChunkSoftmax;
  config.Choice("feature_map", "identity");
  config.Choice("normalization", "split");
  return mixer;
}

constexpr std::array kArchitectures = {
    Architecture{"linear_attn", "Linear attention with feature maps", 24, 4, kLinearAttention,
                 ReadLinearAttention},
    Architecture{"retnet", "RetNet", 24, 2, kRetNet, ReadRetNet},
    Architecture{"gla", "Gated Linear Attention", 24, 4, kGla, ReadGla},
    Architecture{"delta_net", "DeltaNet", 24, 4, kDeltaNet, ReadDeltaNet},
    Architecture{"gated_deltanet", "Gated DeltaNet", 21, 4, kGatedDeltaNet, ReadGatedDeltaNet},
    Architecture{"kda", "Kimi Delta Attention", 24, 4, kKda, ReadKda},
    Architecture{"flash_linear_attention", "Edifice's chunked linear attention", 4, 4,
                 kFlashLinearAttention, ReadFlashLinearAttention, "fla_block"},
    Architecture{"lightning_attention", "Edifice's softmax and linear attention", 4, 4,
                 kLightningAttention, ReadLightningAttention, "lightning_block"},
};

}  // namespace

std::span<const Architecture> Architectures() { return kArchitectures; }
MixerSpec DefaultMixer(const Architecture& architecture) {
  const nlohmann::json empty = nlohmann::json::object();
  const ConfigReader config("defaults", empty, OptionsOf(architecture));
  return architecture.read_mixer(config, kDefaultHiddenSize);
}

std::span<const ConfigOption> CommonOptions() { return kCommon; }
std::span<const ConfigOption> LibraryOptions() { return kLibrary; }

std::vector<std::span<const ConfigOption>> OptionsOf(const Architecture& architecture) {
  if (!architecture.block_name.empty()) return {kCommon, architecture.options};
  return {kCommon, kLibrary, architecture.options};
}

std::span<const RefusedOption> RefusedOptions() { return kRefused; }
std::span<const std::string_view> IgnoredKeys() { return kIgnored; }

}  // namespace fla
