// Edifice's models: what a bad checkpoint is told, and what their states hold. Their outputs are
// compared in golden_test.cc and edifice_parity.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/model.h"
#include "model/state_pool.h"
#include "tests/testing/golden_checkpoint.h"
#include "tests/testing/model_runner.h"

namespace fla {
namespace {

using ::testing::AllOf;
using testing::ErrorOf;
using testing::FloatTensor;
using ::testing::HasSubstr;
using testing::LoadError;
using testing::TemporaryFolder;

const nlohmann::json kFlash = {{"model_type", "flash_linear_attention"},
                               {"embed_dim", 6},
                               {"hidden_size", 8},
                               {"num_heads", 2},
                               {"num_layers", 1},
                               {"chunk_size", 4},
                               {"vocab_size", 10}};
const nlohmann::json kLightning = {{"model_type", "lightning_attention"},
                                   {"embed_dim", 8},
                                   {"hidden_size", 8},
                                   {"num_heads", 2},
                                   {"num_layers", 1},
                                   {"chunk_size", 4}};

nlohmann::json With(nlohmann::json config, const std::string& key, const nlohmann::json& value) {
  config[key] = value;
  return config;
}

std::string ConfigError(const nlohmann::json& config) {
  const TemporaryFolder folder;
  folder.Write("config.json", config.dump());
  return ErrorOf([&] { LoadModelConfig(folder.path()); });
}

FloatTensor Zeros(std::vector<int64_t> shape) {
  int64_t elements = 1;
  for (const int64_t size : shape) elements *= size;
  return {std::move(shape), std::vector<float>(static_cast<size_t>(elements), 0.0f)};
}

// What kFlash's checkpoint holds.
std::map<std::string, FloatTensor> Tensors() {
  return {{"token_embedding.kernel", Zeros({10, 6})},
          {"input_projection.kernel", Zeros({6, 8})},
          {"input_projection.bias", Zeros({8})},
          {"fla_block_1_attn_norm.gamma", Zeros({8})},
          {"fla_block_1_attn_norm.beta", Zeros({8})},
          {"fla_block_1_attn_qkv.kernel", Zeros({8, 24})},
          {"fla_block_1_attn_qkv.bias", Zeros({24})},
          {"fla_block_1_attn_out.kernel", Zeros({8, 8})},
          {"fla_block_1_attn_out.bias", Zeros({8})},
          {"fla_block_1_ffn_norm.gamma", Zeros({8})},
          {"fla_block_1_ffn_norm.beta", Zeros({8})},
          {"fla_block_1_ffn_up.kernel", Zeros({8, 32})},
          {"fla_block_1_ffn_up.bias", Zeros({32})},
          {"fla_block_1_ffn_down.kernel", Zeros({32, 8})},
          {"fla_block_1_ffn_down.bias", Zeros({8})},
          {"final_norm.gamma", Zeros({8})},
          {"final_norm.beta", Zeros({8})},
          {"lm_head.kernel", Zeros({8, 10})}};
}

TEST(EdificeConfig, NamesTheKeyOfABadOption) {
  EXPECT_EQ(ConfigError(kFlash), "(no error)");
  EXPECT_EQ(ConfigError(kLightning), "(no error)");
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, nlohmann::json>>{{"chunk_size", 0},
                                                           {"chunk_size", 5000},
                                                           {"chunk_size", "64"},
                                                           {"num_heads", 0},
                                                           {"num_layers", 0},
                                                           {"embed_dim", -1},
                                                           {"embed_dim", nullptr},
                                                           {"vocab_size", 0},
                                                           {"feature_map", "softmax"},
                                                           {"normalization", "both"},
                                                           {"output", "first"}}) {
    EXPECT_THAT(ConfigError(With(kFlash, key, value)),
                AllOf(HasSubstr("config.json: " + key + ":"), HasSubstr("wanted")))
        << value;
  }
  EXPECT_THAT(ConfigError(With(kFlash, "num_heads", 3)),
              AllOf(HasSubstr("hidden_size"), HasSubstr("3")));
  EXPECT_THAT(ConfigError(With(kLightning, "feature_map", "elu")), HasSubstr("feature_map"));
  EXPECT_THAT(ConfigError(With(kLightning, "normalization", "sum")), HasSubstr("normalization"));
}

TEST(EdificeCheckpoint, NamesAMissingMisshapenOrLeftOverTensor) {
  EXPECT_EQ(LoadError(Tensors(), kFlash), "(no error)");
  const auto tensors = Tensors();
  for (const auto& [name, tensor] : tensors) {
    auto missing = tensors;
    missing.erase(name);
    EXPECT_THAT(LoadError(missing, kFlash), AllOf(HasSubstr(name), HasSubstr("is missing")));
  }
  auto transposed = tensors;
  transposed["fla_block_1_attn_qkv.kernel"] = Zeros({24, 8});
  EXPECT_THAT(LoadError(transposed, kFlash), AllOf(HasSubstr("fla_block_1_attn_qkv.kernel"),
                                                   HasSubstr("wanted shape [8, 24], got [24, 8]")));
  auto left_over = tensors;
  left_over["fla_block_2_ffn_up.bias"] = Zeros({32});
  EXPECT_THAT(LoadError(left_over, kFlash),
              AllOf(HasSubstr("fla_block_2_ffn_up.bias"), HasSubstr("has no place")));
  // Inputs as wide as the model want no projection.
  auto projected = tensors;
  projected["token_embedding.kernel"] = Zeros({10, 8});
  EXPECT_THAT(LoadError(projected, With(kFlash, "embed_dim", 8)),
              AllOf(HasSubstr("input_projection"), HasSubstr("has no place")));
}

TEST(EdificeState, HoldsWhatTheOpenChunkNeeds) {
  const auto bytes = [](const nlohmann::json& config) {
    const TemporaryFolder folder;
    folder.Write("config.json", config.dump());
    return StateBytesPerSlot(LoadModelConfig(folder.path()), {});
  };
  constexpr int64_t kHeads = 2, kSize = 4, kState = 4 * kHeads * kSize * kSize,
                    kSum = 4 * kHeads * kSize;
  EXPECT_EQ(bytes(With(kFlash, "normalization", "none")), kState);
  EXPECT_EQ(bytes(With(kFlash, "normalization", "sum")), kState + kSum);
  EXPECT_EQ(bytes(kFlash), 2 * (kState + kSum));  // of the closed chunks and of the open one
  EXPECT_EQ(bytes(kLightning), kState + kSum + 4 * kHeads * 4 * (kSize + kSize));
  EXPECT_EQ(bytes(With(kLightning, "chunk_size", 8)),
            kState + kSum + 4 * kHeads * 8 * (kSize + kSize));
}

// A slot that one sequence leaves in the middle of a chunk starts anew for the next, and rows of
// one batch do not know of each other.
TEST(EdificeState, NeitherThePastOfASlotNorCompanyChangesASequence) {
  for (const char* name : {"flash_linear_attention", "lightning_attention"}) {
    const auto model = Model::Load({.path = testing::kGolden / name});
    StatePool pool(model->stream(), model->config(), 2);
    const std::vector<int> first = {5, 9, 1, 33, 60, 2, 7}, second(37, 11);
    const int slot = pool.Acquire(model->stream());
    const auto alone = testing::AllLogits(*model, pool, {{slot, 0, first}});
    testing::AllLogits(*model, pool, {{slot, 7, {1, 2, 3}}});
    pool.Release(slot);
    const int again = pool.Acquire(model->stream()), other = pool.Acquire(model->stream());
    auto together = testing::AllLogits(*model, pool, {{again, 0, first}, {other, 0, second}});
    together.resize(alone.size());
    EXPECT_EQ(together, alone) << name;
  }
}

}  // namespace
}  // namespace fla
