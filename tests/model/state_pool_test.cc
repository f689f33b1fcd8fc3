#include "model/state_pool.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "tests/testing/devices.h"

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
  EXPECT_EQ(StateBytesPerSlot(SmallModel(), {}), 2 * layer);
}

// For each update that waits k, a decay or K of them, and u; for each tile of 64 columns a count.
TEST(StatePool, SaysWhatWaitingUpdatesCost) {
  ModelConfig config = SmallModel();
  const int64_t update = 4 * (16 + 1 + 32), counts = 16;
  const auto more = [&](int steps) {
    return StateBytesPerSlot(config, {DType::kF32, steps}) - StateBytesPerSlot(config, {});
  };
  EXPECT_EQ(more(4), 2 * (2 * 4 * update + counts));
  config.mixer.decay = Decay::kPerChannel;
  EXPECT_EQ(more(8), 2 * (2 * 8 * (update + 4 * 15) + counts));
}

TEST(StatePool, RefusesWaitingUpdatesWithoutKernels) {
  Stream stream{Device{}};
  EXPECT_FALSE(TakesReplay(stream, SmallModel()));
  EXPECT_THROW(StatePool(stream, SmallModel(), 2, {DType::kF32, 4}), std::invalid_argument);
}

class StatePoolTest : public ::testing::TestWithParam<std::string> {};

TEST_P(StatePoolTest, HandsOutEachSlotOnceAndZeroed) {
  Stream stream{ParseDevice(GetParam())};
  StatePool pool(stream, SmallModel(), 3);
  std::set<int> slots;
  for (int i = 0; i < 3; ++i) slots.insert(pool.Acquire(stream));
  EXPECT_EQ(slots, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(pool.Acquire(stream), -1);
  EXPECT_EQ(pool.used(), 3);

  // All kinds of all layers lie in one piece of memory, of which the first is the lowest.
  void* const states = pool.layer(0).recurrent;
  std::vector<float> all(pool.bytes() / sizeof(float), 7.0f);
  stream.CopyToDevice(states, all.data(), pool.bytes());
  pool.Release(1);
  ASSERT_EQ(pool.Acquire(stream), 1);
  stream.CopyToHost(all.data(), states, pool.bytes());
  stream.Synchronize();
  size_t next = 0;
  for (int layer = 0; layer < 2; ++layer) {
    for (const size_t size : {2 * 16 * 32, (32 + 32 + 64) * 3, 2 * 16}) {
      for (size_t i = 0; i < 3 * size; ++i) {
        ASSERT_EQ(all[next + i], i / size == 1 ? 0.0f : 7.0f) << layer << " " << size << " " << i;
      }
      next += (3 * size + 63) / 64 * 64;  // aligned to 256 bytes
    }
  }
  EXPECT_EQ(next, all.size());
}

INSTANTIATE_TEST_SUITE_P(Devices, StatePoolTest, ::testing::ValuesIn(testing::Devices()));

TEST_P(StatePoolTest, HandsOutTheLowestFreeSlot) {
  Stream stream{ParseDevice(GetParam())};
  StatePool pool(stream, SmallModel(), 4);
  for (int slot = 0; slot < 4; ++slot) EXPECT_EQ(pool.Acquire(stream), slot);
  for (const int slot : {2, 0, 3}) pool.Release(slot);
  for (const int slot : {0, 2, 3, -1}) EXPECT_EQ(pool.Acquire(stream), slot);
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
