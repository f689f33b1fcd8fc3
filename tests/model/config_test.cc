#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/temporary_folder.h"
#include "tests/testing/throws.h"

namespace fla {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

ModelConfig Parse(const std::string& config, const std::string& generation = "") {
  const TemporaryFolder folder;
  folder.Write("config.json", config);
  if (!generation.empty()) folder.Write("generation_config.json", generation);
  return LoadModelConfig(folder.path());
}

std::string ParseError(const std::string& config, const std::string& generation = "") {
  return ErrorOf([&] { Parse(config, generation); });
}

TEST(Config, TakesTheLibrarysDefaults) {
  const ModelConfig gla = Parse(R"({"model_type": "gla"})");
  EXPECT_EQ(gla.hidden_size, 2048);
  EXPECT_EQ(gla.num_layers, 24);
  EXPECT_EQ(gla.intermediate_size, 5632);
  EXPECT_EQ(gla.mixer.heads, 4);
  EXPECT_EQ(gla.mixer.head_k_dim, 256);
  EXPECT_EQ(gla.mixer.head_v_dim, 512);
  EXPECT_EQ(gla.mixer.output_norm_name, "g_norm_swish_gate");

  const ModelConfig retnet = Parse(R"({"model_type": "retnet"})");
  EXPECT_EQ(retnet.intermediate_size, 2816);
  EXPECT_EQ(retnet.mixer.head_v_dim, 512);

  const ModelConfig gdn = Parse(R"({"model_type": "gated_deltanet"})");
  EXPECT_EQ(gdn.num_layers, 21);
  EXPECT_EQ(gdn.mixer.heads, 6);
  EXPECT_EQ(gdn.mixer.head_v_dim, 512);
  EXPECT_EQ(gdn.mixer.conv_channels(), 2 * 6 * 256 + 6 * 512);

  EXPECT_EQ(Parse(R"({"model_type": "kda"})").mixer.head_v_dim, 128);
  EXPECT_EQ(Parse(R"({"model_type": "delta_net"})").mixer.heads, 16);
  EXPECT_EQ(Parse(R"({"model_type": "linear_attn"})").mixer.feature_map,
            FeatureMap::kElementwiseProduct);
}

TEST(Config, ReadsEveryOptionOfAMixer) {
  const ModelConfig delta = Parse(R"({"model_type": "delta_net", "use_beta": false,
      "allow_neg_eigval": true, "qk_activation": "relu", "qk_norm": "sum", "use_gate": true})");
  EXPECT_EQ(delta.mixer.beta, BetaSource::kOne);
  EXPECT_EQ(delta.mixer.beta_scale, 2.0f);
  EXPECT_EQ(delta.mixer.qk_activation, Activation::kRelu);
  EXPECT_EQ(delta.mixer.q_norm, HeadNorm::kL1);
  EXPECT_EQ(delta.mixer.output_gate, OutputGate::kProjection);

  const ModelConfig kda = Parse(R"({"model_type": "kda", "lower_bound": -5, "num_heads": 4,
      "num_v_heads": 8, "head_dim": 32})");
  EXPECT_TRUE(kda.mixer.gate_bounded);
  EXPECT_EQ(kda.mixer.gate_lower_bound, -5.0f);
  EXPECT_EQ(kda.mixer.heads, 8);
  EXPECT_EQ(kda.mixer.q_heads, 4);

  const ModelConfig linear = Parse(R"({"model_type": "linear_attn", "feature_map": "dpfp",
      "norm_q": true, "norm_feature_map": true, "num_kv_heads": 2})");
  EXPECT_EQ(linear.mixer.state_k_dim(), 8 * linear.mixer.head_k_dim);
  EXPECT_EQ(linear.mixer.q_norm, HeadNorm::kSum);
  EXPECT_EQ(linear.mixer.k_norm, HeadNorm::kNone);
  EXPECT_EQ(linear.mixer.normalization, Normalization::kSum);
  EXPECT_EQ(linear.mixer.k_heads, 2);
}

TEST(Config, NamesWhatIsNotSupported) {
  EXPECT_THAT(ParseError(R"({"model_type": "llama"})"),
              AllOf(HasSubstr("config.json: model_type"), HasSubstr("gated_deltanet"),
                    HasSubstr("got \"llama\"")));
  EXPECT_THAT(ParseError("{}"), HasSubstr("got nothing"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "attn": {"layers": [1]}})"),
              AllOf(HasSubstr("attn"), HasSubstr("hybrid")));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "attnres_block_size": 4})"),
              HasSubstr("attnres_block_size"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "hidden_act": "gelu"})"),
              HasSubstr("hidden_act"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "use_gv": true})"), HasSubstr("use_gv"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "feature_map": "taylor"})"),
              HasSubstr("feature_map"));
  EXPECT_THAT(ParseError(R"({"model_type": "linear_attn", "feature_map": "rebased"})"),
              HasSubstr("hedgehog"));
}

TEST(Config, NamesBadValues) {
  EXPECT_THAT(ParseError("[]"), HasSubstr("wanted a JSON object"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "vocab_size": -1})"), HasSubstr("vocab_size"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "vocab_size": "big"})"),
              HasSubstr("vocab_size: wanted an integer"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "hidden_size": 99999999999})"),
              HasSubstr("hidden_size"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "num_heads": 0})"), HasSubstr("num_heads"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "num_heads": 3})"), HasSubstr("multiple of 3"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "num_kv_heads": 3})"), HasSubstr("num_heads"));
  EXPECT_THAT(ParseError(R"({"model_type": "gla", "expand_k": 0.0001})"), HasSubstr("expand_k"));
  EXPECT_THAT(ParseError(R"({"model_type": "kda", "conv_size": 99})"), HasSubstr("conv_size"));
  EXPECT_THAT(ParseError(R"({"model_type": "kda", "lower_bound": 5})"), HasSubstr("lower_bound"));
  EXPECT_THAT(ParseError(R"({"model_type": "kda", "safe_gate": true})"), HasSubstr("lower_bound"));
  EXPECT_THAT(ParseError(R"({"model_type": "kda", "eos_token_id": 32000})"),
              HasSubstr("eos_token_id"));
  EXPECT_THAT(ParseError(R"({"model_type": "kda", "tie_word_embeddings": 1})"),
              HasSubstr("true or false"));
}

TEST(Config, ReadsGenerationDefaults) {
  const ModelConfig model = Parse(R"({"model_type": "kda", "eos_token_id": 2})",
                                  R"({"do_sample": true, "temperature": 0.8, "top_p": 0.95,
                                      "eos_token_id": [2, 7]})");
  EXPECT_EQ(model.generation.temperature, 0.8f);
  EXPECT_EQ(model.generation.top_p, 0.95f);
  EXPECT_FALSE(model.generation.top_k.has_value());
  EXPECT_THAT(model.eos_token_ids, ElementsAre(2, 7));
  EXPECT_EQ(Parse(R"({"model_type": "kda"})", R"({"do_sample": false, "temperature": 0.8})")
                .generation.temperature,
            0.0f);
  EXPECT_THAT(ParseError(R"({"model_type": "kda"})", R"({"top_p": 1.5})"), HasSubstr("top_p"));
  EXPECT_THAT(ParseError(R"({"model_type": "kda"})", R"({"temperature": -1})"),
              HasSubstr("generation_config.json: temperature"));
}

}  // namespace
}  // namespace fla
