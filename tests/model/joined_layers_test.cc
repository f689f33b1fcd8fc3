// Layers wide enough for a GPU to run them otherwise than by an op each: all projections of a short
// prompt between two recurrences as one kernel; a long prompt's residual stream folded.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "model/model.h"
#include "model/state_pool.h"
#include "tests/testing/checkpoint_writer.h"
#include "tests/testing/compare.h"
#include "tests/testing/golden_checkpoint.h"
#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using testing::StoredBytes;

constexpr int kHidden = 1536, kInner = 4096, kHeads = 4, kKeyDim = 256, kValueDim = 512,
              kVocab = 256, kLayers = 3;

// Uniform, with that deviation about that mean.
StoredBytes Uniform(std::minstd_rand& random, std::vector<int64_t> shape, float deviation,
                    float mean = 0.0f) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  std::string bytes(count * sizeof(BFloat16), '\0');
  std::uniform_real_distribution<float> values(mean - 1.732f * deviation,
                                               mean + 1.732f * deviation);
  for (int64_t i = 0; i < count; ++i) {
    const BFloat16 value(values(random));
    std::memcpy(bytes.data() + i * sizeof value, &value, sizeof value);
  }
  return {"BF16", std::move(shape), std::move(bytes)};
}

// `odd_weight`: of a column of a norm in the middle.
void WriteModel(const testing::TemporaryFolder& folder, float odd_weight = 1.0f) {
  nlohmann::json config = testing::GoldenConfig("gated_deltanet");
  config["hidden_size"] = kHidden;
  config["intermediate_size"] = kInner;
  config["num_heads"] = kHeads;
  config["head_dim"] = kKeyDim;
  config["num_hidden_layers"] = kLayers;
  config["vocab_size"] = kVocab;
  folder.Write("config.json", config.dump());
  std::minstd_rand random(5);
  std::map<std::string, StoredBytes> tensors;
  const auto linear = [&](const std::string& name, int64_t rows, int64_t cols) {
    tensors[name] = Uniform(random, {rows, cols}, 1.0f / std::sqrt(static_cast<float>(cols)));
  };
  const auto norm = [&](const std::string& name, int64_t size) {
    tensors[name] = Uniform(random, {size}, 0.2f, 1.0f);
  };
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    for (const char name : {'q', 'k', 'v'}) {
      const int64_t channels = kHeads * (name == 'v' ? kValueDim : kKeyDim);
      linear(prefix + "attn." + name + "_proj.weight", channels, kHidden);
      tensors[prefix + "attn." + name + "_conv1d.weight"] = Uniform(random, {channels, 1, 4}, 0.5f);
    }
    linear(prefix + "attn.g_proj.weight", kHeads * kValueDim, kHidden);
    linear(prefix + "attn.a_proj.weight", kHeads, kHidden);
    linear(prefix + "attn.b_proj.weight", kHeads, kHidden);
    linear(prefix + "attn.o_proj.weight", kHidden, kHeads * kValueDim);
    tensors[prefix + "attn.A_log"] = Uniform(random, {kHeads}, 0.5f);
    tensors[prefix + "attn.dt_bias"] = Uniform(random, {kHeads}, 0.5f, -3.0f);
    norm(prefix + "attn.o_norm.weight", kValueDim);
    norm(prefix + "attn_norm.weight", kHidden);
    norm(prefix + "mlp_norm.weight", kHidden);
    linear(prefix + "mlp.gate_proj.weight", kInner, kHidden);
    linear(prefix + "mlp.up_proj.weight", kInner, kHidden);
    linear(prefix + "mlp.down_proj.weight", kHidden, kInner);
  }
  norm("model.norm.weight", kHidden);
  linear("model.embeddings.weight", kVocab, kHidden);
  linear("lm_head.weight", kVocab, kHidden);
  const BFloat16 odd(odd_weight);
  std::memcpy(tensors["model.layers.1.mlp_norm.weight"].bytes.data(), &odd, sizeof odd);
  folder.Write("model.safetensors", testing::SafetensorsOfStored(tensors));
}

class JoinedLayers : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!device_.is_cuda()) GTEST_SKIP() << "no GPU; a CPU has no such kernels";
  }

  void Load(int max_batch_tokens, float odd_weight = 1.0f) {
    const testing::TemporaryFolder folder;
    WriteModel(folder, odd_weight);
    model_ = Model::Load({.path = folder.path(),
                          .device = device_,
                          .dtype = DType::kBF16,
                          .max_batch_tokens = max_batch_tokens});
    pool_.emplace(model_->stream(), model_->config(), 2);
  }

  void Prepare() {
    sampled_ = Buffer(device_, 2 * sizeof(int));
    model_->Prepare(*pool_, sampled_.as<int>(), 2, 2);
  }

  // The logits behind a prompt that comes in such pieces, and behind a token more.
  std::vector<float> Run(std::vector<int> pieces) {
    pieces.push_back(1);
    pool_->Acquire(model_->stream());
    const int slot = pool_->Acquire(model_->stream());
    std::vector<float> last;
    int position = 0;
    for (const int tokens : pieces) {
      Batch batch{{}, {slot}, {0, tokens}, {position}, 0, {tokens - 1}};
      for (int t = 0; t < tokens; ++t) batch.tokens.push_back((position + t) * 37 % kVocab);
      const Matrix logits = model_->Forward(batch, *pool_).logits;
      last.resize(2 * kVocab);
      std::copy(last.begin() + kVocab, last.end(), last.begin());
      model_->stream().CopyToHost(last.data() + kVocab, logits.data, kVocab * sizeof(float));
      model_->stream().Synchronize();
      position += tokens;
    }
    for (const int used : {0, 1}) pool_->Release(used);
    return last;
  }

  // A prompt of so many tokens leads to the same in pieces of at most `most`.
  void ExpectAsInPieces(int tokens, int most) {
    std::vector<int> pieces;
    for (int rest = tokens; rest > 0; rest -= most) pieces.push_back(std::min(rest, most));
    EXPECT_LT((testing::RelativeError<float, float>(Run({tokens}), Run(pieces))), 2e-2) << tokens;
  }

  const Device device_ = ParseDevice("auto");
  std::unique_ptr<Model> model_;
  std::optional<StatePool> pool_;
  Buffer sampled_;
};

// In one piece, which takes the kernel where there is one, and in pieces too short for it, whose
// first layer projects what the whole looks up; recorded and not.
TEST_F(JoinedLayers, AreTheirOpsOneByOne) {
  Load(256);
  for (const bool recorded : {false, true}) {
    if (recorded) Prepare();
    for (const int tokens : {40, 64, 65, 100, 128}) ExpectAsInPieces(tokens, 32);
  }
}

// In one piece, folded unless a norm's weights do not let it be, and in pieces that are not.
TEST_F(JoinedLayers, OfLongPromptsAreThoseOfShortOnes) {
  for (const float odd_weight : {1.0f, -3.0f, 0.0f}) {
    Load(4096, odd_weight);
    for (const int tokens : {2048, 2900, 4096}) ExpectAsInPieces(tokens, 1500);
    ExpectAsInPieces(2100, 32);
  }
}

}  // namespace
}  // namespace fla
