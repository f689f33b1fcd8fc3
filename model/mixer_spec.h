// A token mixer as data: what one row of the architectures table says of a model.
#pragma once

#include <string>

#include "kernels/chunk_attention.h"
#include "kernels/ops.h"
#include "kernels/recurrence.h"

namespace fla {

// What is applied to each head of q and k after projection (and convolution).
enum class FeatureMap : uint8_t {
  kIdentity,
  kElementwise,         // feature_activation on each channel
  kElementwiseProduct,  // layer1(x) * layer2(x)
  kHedgehog,            // softmax([2y, -2y]), y = layer(x): doubles the head
  kTransformerToRnn,    // relu(layer(x)), "t2r"
  kDpfp,                // deterministic parameter-free projection, nu = 4: 8 times the head
};

// Where the log decay comes from.
enum class DecaySource : uint8_t {
  kNone,
  kRetention,    // ln(1 - 2^(-5 - h)), a constant of the head
  kLowRank,      // GLA: logsigmoid(gk_proj.1(gk_proj.0(x))) / 16, maybe clamped
  kPerHeadA,     // Gated DeltaNet: -exp(A_log) softplus(a_proj(x) + dt_bias)
  kPerChannelF,  // KDA: the same per channel of f_proj.1(f_proj.0(x)), or bounded below
};

enum class BetaSource : uint8_t { kNone, kOne, kProjection };

enum class OutputGate : uint8_t {
  kNone,
  kProjection,  // g_proj.weight
  kLowRank,     // g_proj.0.weight, g_proj.1.weight, g_proj.1.bias
};

// What the outputs of the recurrence, sums over tokens weighted by scores q . k, are divided by.
// `eps` is added to each divisor.
enum class Normalization : uint8_t {
  kNone,
  kSum,           // the sum of all scores
  kSplit,         // own chunk and earlier chunks apart, each by the sum of its scores
  kChunkSoftmax,  // own chunk by softmax attention, earlier chunks by the sum of their scores
};

// How a checkpoint names its tensors and lays out the matrices of dense layers.
enum class TensorLayout : uint8_t {
  kLibrary,  // "model.layers.0.attn.q_proj.weight" [out, in]
  kAxon,     // "fla_block_1_attn_qkv.kernel" [in, out] and "....bias"; q, k and v in one
};

// In the order of the computation. Head counts as in RecurrenceSpec.
struct MixerSpec {
  TensorLayout layout = TensorLayout::kLibrary;
  Decay decay = Decay::kNone;
  Update update = Update::kAdditive;

  int heads = 0;  // H: states a sequence has
  int q_heads = 0;
  int k_heads = 0;
  int v_heads = 0;
  int head_k_dim = 0;  // of q and k as projected
  int head_v_dim = 0;  // V

  int conv_width = 0;                                // 0: no short convolution
  Activation qk_activation = Activation::kIdentity;  // in the convolution where there is one
  Activation v_activation = Activation::kIdentity;

  FeatureMap feature_map = FeatureMap::kIdentity;
  Activation feature_activation = Activation::kIdentity;  // of kElementwise
  bool tied_feature_map = false;                          // q and k share the map's weights
  HeadNorm q_norm = HeadNorm::kNone;
  HeadNorm k_norm = HeadNorm::kNone;
  float qk_norm_eps = 0.0f;
  float rotary_base = 0.0f;  // 0: no rotary embedding

  float scale = 0.0f;  // of the scores; 0: K^-0.5, K of the recurrence
  Normalization normalization = Normalization::kNone;
  float normalization_eps = 1e-10f;
  int chunk_size = 0;  // C of kSplit and kChunkSoftmax, a part of the model

  DecaySource decay_source = DecaySource::kNone;
  int gate_low_rank = 0;  // inner size of kLowRank and kPerChannelF
  float gate_normalizer = 1.0f;
  float gate_clamp_min = -__builtin_inff();
  bool gate_bounded = false;  // lower_bound * sigmoid(...) instead of softplus
  float gate_lower_bound = 0.0f;

  BetaSource beta = BetaSource::kNone;
  float beta_scale = 1.0f;  // 2 where negative eigenvalues are allowed

  float norm_eps = 1e-6f;  // of the output norm
  bool output_norm = true;
  bool output_norm_weight = true;
  std::string output_norm_name;  // "o_norm", "g_norm_swish_gate", ...
  OutputGate output_gate = OutputGate::kNone;
  int output_gate_low_rank = 0;
  Activation output_gate_activation = Activation::kSilu;

  bool has_open_chunk() const { return normalization >= Normalization::kSplit; }

  int key_dim() const { return q_heads * head_k_dim; }       // columns of q_proj
  int kv_key_dim() const { return k_heads * head_k_dim; }    // columns of k_proj
  int value_dim() const { return heads * head_v_dim; }       // columns into o_proj
  int kv_value_dim() const { return v_heads * head_v_dim; }  // columns of v_proj
  int conv_channels() const {                                // q, k and v together
    return conv_width == 0 ? 0 : key_dim() + kv_key_dim() + kv_value_dim();
  }
  // K of the recurrence: the head after its feature map.
  int state_k_dim() const {
    return feature_map == FeatureMap::kHedgehog ? 2 * head_k_dim
           : feature_map == FeatureMap::kDpfp   ? 8 * head_k_dim
                                                : head_k_dim;
  }
};

RecurrenceSpec RecurrenceOf(const MixerSpec& spec);
// Of a spec that has_open_chunk.
ChunkAttentionSpec ChunkAttentionOf(const MixerSpec& spec);

}  // namespace fla
