#include "model/state_pool.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace fla {
namespace {

ModelConfig SmallModel() {
  ModelConfig config;
  config.num_layers = 2;
  config.mixer.heads = config.mixer.q_heads = config.mixer.k_heads = config.mixer.v_heads = 2;
  config.mixer.head_k_dim = 16;
  config.mixer.head_v_dim = 32;
  config.mixer.conv_width = 4;
  config.mixer.normalization = Normalization::kSum;
  return config;
}

TEST(StatePool, SaysWhatASlotCosts) {
  const int64_t layer = 2 * 16 * 32 * 4 + (32 + 32 + 64) * 3 * 4 + 2 * 16 * 4;
  EXPECT_EQ(StateBytesPerSlot(SmallModel(), DType::kF32), 2 * layer);
}

TEST(StatePool, HandsOutEachSlotOnceAndZeroed) {
  Stream stream{Device{}};
  StatePool pool(stream, SmallModel(), 3);
  std::set<int> slots;
  for (int i = 0; i < 3; ++i) slots.insert(pool.Acquire(stream));
  EXPECT_EQ(slots, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(pool.Acquire(stream), -1);
  EXPECT_EQ(pool.used(), 3);

  auto* state = static_cast<float*>(pool.layer(1).recurrent);
  const int size = 2 * 16 * 32;
  std::fill(state, state + 3 * size, 7.0f);
  pool.layer(0).convolution[0] = 7.0f;
  pool.Release(1);
  ASSERT_EQ(pool.Acquire(stream), 1);
  EXPECT_EQ(state[size - 1], 7.0f);
  for (int i = size; i < 2 * size; ++i) ASSERT_EQ(state[i], 0.0f);
  EXPECT_EQ(state[2 * size], 7.0f);
  EXPECT_EQ(pool.layer(0).convolution[0], 7.0f);
}

TEST(StatePool, RefusesToReleaseWhatIsFree) {
  Stream stream{Device{}};
  StatePool pool(stream, SmallModel(), 2);
  EXPECT_THROW(pool.Release(0), std::logic_error);
  EXPECT_THROW(pool.Release(5), std::logic_error);
  EXPECT_THROW(StatePool(stream, SmallModel(), 0), std::invalid_argument);
}

}  // namespace
}  // namespace fla
