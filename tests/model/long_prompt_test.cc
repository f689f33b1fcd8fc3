// A prompt of a million tokens: memory does not grow with it, and how it is cut does not matter.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <span>
#include <vector>

#include "model/model.h"
#include "model/state_pool.h"
#include "tests/testing/compare.h"

namespace fla {
namespace {

constexpr int kTokens = 1'000'000;
constexpr int kMaxPiece = 4096;

// The recurrent states of a slot, all layers one after the other.
std::vector<float> StatesOf(Model& model, const StatePool& pool, int slot) {
  const MixerSpec& mixer = model.config().mixer;
  const int64_t size = int64_t{mixer.heads} * mixer.state_k_dim() * mixer.head_v_dim;
  std::vector<float> states(model.config().num_layers * size);
  for (int layer = 0; layer < model.config().num_layers; ++layer) {
    const auto* state = static_cast<const float*>(pool.layer(layer).recurrent) + slot * size;
    model.stream().CopyToHost(states.data() + layer * size, state, size * sizeof(float));
  }
  model.stream().Synchronize();
  return states;
}

TEST(LongPrompt, TakesConstantMemoryAndCanBeCutAnywhere) {
  const Device device = ParseDevice("auto");
  if (!device.is_cuda()) GTEST_SKIP() << "no GPU; a CPU would need minutes";
  const auto model = Model::Load({.path = std::filesystem::path(FLA_SOURCE_DIR) / "demo/model",
                                  .device = device,
                                  .dtype = DType::kBF16,
                                  .max_batch_tokens = kMaxPiece});
  StatePool pool(model->stream(), model->config(), 2);
  model->Prepare(pool, nullptr, 1, 1);

  std::mt19937 random(5);
  std::vector<int> prompt(kTokens);
  for (int& token : prompt) token = static_cast<int>(random() % model->config().vocab_size);
  const auto run = [&](auto piece_length) {
    const int slot = pool.Acquire(model->stream());
    const int64_t before = model->workspace_bytes();
    for (int begin = 0; begin < kTokens;) {
      const int length = std::min(piece_length(), kTokens - begin);
      Batch batch;
      batch.tokens.assign(prompt.begin() + begin, prompt.begin() + begin + length);
      batch.slots = {slot};
      batch.cu_seqlens = {0, length};
      batch.positions = {begin};
      model->Forward(batch, pool);
      begin += length;
    }
    model->stream().Synchronize();
    EXPECT_EQ(model->workspace_bytes(), before) << "memory grew with the prompt";
    return StatesOf(*model, pool, slot);
  };
  const std::vector<float> whole = run([] { return kMaxPiece; });
  const std::vector<float> ragged = run([&] { return 1 + static_cast<int>(random() % kMaxPiece); });
  for (const float x : whole) ASSERT_TRUE(std::isfinite(x));
  EXPECT_LT((testing::RelativeError<float, float>(ragged, whole)), 2e-2);
}

}  // namespace
}  // namespace fla
