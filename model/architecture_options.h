// The options of every model, as tables: the keys that architectures.cc reads, those that are
// refused, and those that change nothing. ConfigReader holds the code to them.
#pragma once

#include "model/architectures.h"

namespace fla {

inline constexpr std::string_view kCount = "a positive integer";

inline constexpr ConfigOption kLinearAttention[] = {
    {"num_heads", kCount},
    {"num_kv_heads", "a divisor of num_heads"},
    {"expand_k", "a number"},
    {"expand_v", "a number"},
    {"feature_map", "elementwise_product, elu, relu, identity, hedgehog, t2r, dpfp"},
    {"tie_feature_map_qk", kFlagValues},
    {"norm_q", kFlagValues},
    {"norm_k", kFlagValues},
    {"norm_feature_map", kFlagValues},
    {"elementwise_affine", kFlagValues},
};

inline constexpr ConfigOption kRetNet[] = {
    {"num_heads", kCount},
    {"num_kv_heads", "a divisor of num_heads"},
    {"expand_k", "a number"},
    {"expand_v", "a number"},
    {"feature_map", "relu, sigmoid, silu, swish"},
    {"use_short_conv", kFlagValues},
    {"conv_size", "2 to 8"},
    {"use_output_gate", kFlagValues},
    {"fuse_norm", kFlagValues},
    {"elementwise_affine", kFlagValues},
};

inline constexpr ConfigOption kGla[] = {
    {"num_heads", kCount},
    {"num_kv_heads", "a divisor of num_heads"},
    {"expand_k", "a number"},
    {"expand_v", "a number"},
    {"feature_map", "relu, sigmoid, silu, swish"},
    {"use_short_conv", kFlagValues},
    {"conv_size", "2 to 8"},
    {"use_output_gate", kFlagValues},
    {"clamp_min", "a number"},
    {"fuse_norm", kFlagValues},
    {"elementwise_affine", kFlagValues},
};

inline constexpr ConfigOption kDeltaNet[] = {
    {"num_heads", kCount},
    {"expand_k", "a number"},
    {"expand_v", "a number"},
    {"use_short_conv", kFlagValues},
    {"conv_size", "2 to 8"},
    {"use_beta", kFlagValues},
    {"use_gate", kFlagValues},
    {"allow_neg_eigval", kFlagValues},
    {"qk_activation", "silu, relu, elu, identity"},
    {"qk_norm", "l2, sum"},
    {"norm_first", kFlagValues},
};

inline constexpr ConfigOption kGatedDeltaNet[] = {
    {"num_heads", kCount},
    {"num_v_heads", "a multiple of num_heads"},
    {"head_dim", kCount},
    {"expand_v", "a number"},
    {"use_short_conv", kFlagValues},
    {"conv_size", "2 to 8"},
    {"use_gate", kFlagValues},
    {"output_gate_activation", "swish, silu, sigmoid, relu, elu, identity"},
    {"allow_neg_eigval", kFlagValues},
};

inline constexpr ConfigOption kKda[] = {
    {"num_heads", kCount},
    {"num_v_heads", "a multiple of num_heads"},
    {"head_dim", kCount},
    {"expand_v", "a number"},
    {"use_short_conv", kFlagValues},
    {"conv_size", "2 to 8"},
    {"allow_neg_eigval", kFlagValues},
    {"safe_gate", kFlagValues},
    {"lower_bound", "a negative number"},
};

inline constexpr ConfigOption kFlashLinearAttention[] = {
    {"num_heads", "a divisor of hidden_size"},
    {"chunk_size", "1 to 4096"},
    {"feature_map", "elu, relu, identity"},
    {"normalization", "split, sum, none"},
    {"embed_dim", kCount},
    {"num_layers", kCount},
    {"output", "last, all, mean"},
};

inline constexpr ConfigOption kLightningAttention[] = {
    {"num_heads", "a divisor of hidden_size"},
    {"chunk_size", "1 to 4096"},
    {"feature_map", "identity"},
    {"normalization", "split"},
    {"embed_dim", kCount},
    {"num_layers", kCount},
    {"output", "last, all, mean"},
};

inline constexpr ConfigOption kCommon[] = {
    {"model_type", "the first column"},
    {"vocab_size", kCount},
    {"hidden_size", kCount},
    {"tie_word_embeddings", kFlagValues},
    {"bos_token_id", "a token"},
    {"eos_token_id", "a token or a list of them"},
    {"quantization_config", "null, or of F8_E4M3 weights"},
};

// Of the library's models.
inline constexpr ConfigOption kLibrary[] = {
    {"num_hidden_layers", kCount},        {"hidden_ratio", kCount},
    {"intermediate_size", kCount},        {"hidden_act", "swish, silu"},
    {"norm_eps", "a number, at least 0"},
};

inline constexpr RefusedOption kRefused[] = {
    {"", "attn", "null", "hybrids with softmax layers"},
    {"", "attnres_block_size", "null", "attention residuals"},
    {"", "share_conv_kernel", "false", "one convolution before q, k and v, until July 2024",
     "use_short_conv"},
    {"", "conv_bias", "false", "biases of short convolutions", "use_short_conv"},
    {"gla", "use_gk", "true", "GLA without its gate"},
    {"gla", "use_gv", "false", "gates on values"},
    {"delta_net", "feature_map", "null", "another model, until May 2024"},
    {"delta_net", "use_elu", "false", "another model, until May 2024"},
    {"delta_net", "use_rope", "false", "rotary embeddings, until July 2024"},
    {"gated_deltanet", "norm_first", "false", "attention without a norm, until February 2025"},
};

inline constexpr std::string_view kIgnored[] = {
    "_name_or_path",
    "architectures",
    "attn_mode",
    "auto_map",
    "chunk_size",
    "dtype",
    "fuse_cross_entropy",
    "fuse_norm",
    "fuse_linear_cross_entropy",
    "fuse_swiglu",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "max_position_embeddings",
    "num_attention_heads",
    "num_heads",
    "num_key_value_heads",
    "output_attentions",
    "pad_token_id",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "rms_norm_eps",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
    "use_l2warp",
    "use_output_norm",
};

}  // namespace fla
