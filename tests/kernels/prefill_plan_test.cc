// When a prefill goes by one kernel or in windows, and which chunks are made beside a scan, the
// next window's or the last segment's: a function of the shape, so no GPU is needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {
namespace {

struct Shape {
  Decay decay;
  Update update;
  int heads;
  std::vector<int> lengths;
  DType state = DType::kF32;
  bool hopper = true;
};

PrefillPlan Plan(const Shape& shape) {
  std::vector<int> cu_seqlens = {0};
  for (int length : shape.lengths) cu_seqlens.push_back(cu_seqlens.back() + length);
  RecurrenceArgs args;
  RecurrenceSpec& spec = args.spec;
  spec.decay = shape.decay;
  spec.update = shape.update;
  spec.heads = spec.q_heads = spec.k_heads = spec.v_heads = spec.decay_heads = shape.heads;
  spec.key_dim = spec.value_dim = 128;
  const int64_t columns = int64_t{128} * shape.heads;
  args.q = args.k = args.v =
      args.out = {nullptr, DType::kBF16, cu_seqlens.back(), columns, columns};
  args.state_dtype = shape.state;
  args.num_sequences = static_cast<int>(shape.lengths.size());
  args.cu_seqlens_host = cu_seqlens.data();
  return PlanPrefill(args, 132, shape.hopper);
}

TEST(PlanPrefill, OneLongPromptGoesInWindows) {
  for (int length : {4096, 8192, 65536}) {
    const PrefillPlan plan = Plan({Decay::kPerChannel, Update::kDelta, 128, {length}});
    EXPECT_TRUE(plan.ahead);
    EXPECT_EQ(plan.window_tokens % kWideChunk, 0);
    EXPECT_LE(plan.window_tokens, 4096);
    EXPECT_GE(length, 2 * plan.window_tokens);
  }
  EXPECT_TRUE(Plan({Decay::kPerToken, Update::kDelta, 32, {8192}}).ahead);
}

// Blocks of 64 columns of as many sequences side by side as the GPU has room for, or of 128.
TEST(PlanPrefill, ManyHeadsOfADecayPerChannelGoByOneKernel) {
  for (const Update update : {Update::kDelta, Update::kAdditive}) {
    for (const std::vector<int>& lengths : {std::vector<int>{8192}, {3000, 700, 2000, 1}}) {
      const PrefillPlan plan = Plan({Decay::kPerChannel, update, 64, lengths});
      EXPECT_EQ(plan.tracks, 1);
      EXPECT_EQ(plan.slice_width, 1);
      EXPECT_FALSE(plan.ahead);
      EXPECT_EQ(plan.segment_tokens, 0);
    }
  }
  const PrefillPlan wide = Plan({Decay::kPerChannel, Update::kDelta, 96, {8192}});
  EXPECT_EQ(wide.tracks, 1);
  EXPECT_EQ(wide.slice_width, 2);
  EXPECT_EQ(Plan({Decay::kPerChannel, Update::kDelta, 16, {4096, 4096, 4096, 4096}}).tracks, 4);
  EXPECT_EQ(Plan({Decay::kPerChannel, Update::kDelta, 16, std::vector<int>(8, 2048)}).tracks, 4);

  // Warps of 128 columns on nearly all multiprocessors, or of any on half of them; tracks of unlike
  // lengths; short sequences; another GPU; another decay.
  EXPECT_EQ(Plan({Decay::kPerChannel, Update::kDelta, 128, {8192}}).tracks, 0);
  EXPECT_EQ(Plan({Decay::kPerChannel, Update::kDelta, 32, {8192}}).tracks, 0);
  EXPECT_EQ(Plan({Decay::kPerChannel, Update::kDelta, 16, {8192, 4096, 1024, 1024}}).tracks, 0);
  EXPECT_EQ(Plan({Decay::kPerChannel, Update::kDelta, 64, std::vector<int>(8, 1024)}).tracks, 0);
  Shape shape = {Decay::kPerChannel, Update::kDelta, 64, {8192}};
  shape.hopper = false;
  EXPECT_EQ(Plan(shape).tracks, 0);
  EXPECT_EQ(Plan({Decay::kPerToken, Update::kDelta, 64, {8192}}).tracks, 0);
}

TEST(PlanPrefill, NoWindowsWhereNothingRunsBesideTheScan) {
  // Its blocks fill the GPU; there is no first kernel; other sequences run beside it; segments do.
  EXPECT_FALSE(Plan({Decay::kPerToken, Update::kDelta, 64, {8192}}).ahead);
  EXPECT_FALSE(Plan({Decay::kPerToken, Update::kAdditive, 16, {8192}}).ahead);
  EXPECT_FALSE(Plan({Decay::kPerChannel, Update::kDelta, 64, {8192, 8192}}).ahead);
  const PrefillPlan cut = Plan({Decay::kPerChannel, Update::kDelta, 4, {65536}});
  EXPECT_GT(cut.segment_tokens, 0);
  EXPECT_FALSE(cut.ahead);
  // Too short; a GPU without early launches; a state that every window would round.
  EXPECT_FALSE(Plan({Decay::kPerChannel, Update::kDelta, 64, {2048}}).ahead);
  Shape shape = {Decay::kPerChannel, Update::kDelta, 64, {8192}};
  shape.hopper = false;
  EXPECT_FALSE(Plan(shape).ahead);
  shape.hopper = true;
  shape.state = DType::kBF16;
  EXPECT_FALSE(Plan(shape).ahead);
}

// The last segment of one sequence is no part of the local pass.
TEST(PlanPrefill, LastSegmentsChunksAreMadeLate) {
  for (Decay decay : {Decay::kPerToken, Decay::kPerChannel}) {
    const PrefillPlan cut = Plan({decay, Update::kDelta, 8, {65536}});
    ASSERT_GT(cut.segment_tokens, 0);
    EXPECT_TRUE(cut.late);
    // Another sequence's last chunks lie between; without the delta rule the first kernel is short.
    const PrefillPlan two = Plan({decay, Update::kDelta, 4, {65536, 65536}});
    ASSERT_GT(two.segment_tokens, 0);
    EXPECT_FALSE(two.late);
    const PrefillPlan additive = Plan({decay, Update::kAdditive, 4, {65536}});
    ASSERT_GT(additive.segment_tokens, 0);
    EXPECT_FALSE(additive.late);
  }
  // A GPU without early launches; not cut; in windows that are made ahead.
  Shape shape = {Decay::kPerChannel, Update::kDelta, 8, {65536}};
  shape.hopper = false;
  EXPECT_FALSE(Plan(shape).late);
  EXPECT_FALSE(Plan({Decay::kPerChannel, Update::kDelta, 64, {2048}}).late);
  const PrefillPlan ahead = Plan({Decay::kPerToken, Update::kDelta, 32, {65536}});
  ASSERT_TRUE(ahead.ahead);
  EXPECT_FALSE(ahead.late);
}

// 64 slices of KDA's, of which 16 segments fill the GPU: in every window, though the workspace has
// no room for the whole prompt.
TEST(PlanPrefill, SegmentsFillTheGpuInEveryWindow) {
  for (int length : {200000, 320000, 524288, 700000, 1 << 20}) {
    SCOPED_TRACE(length);
    const PrefillPlan plan = Plan({Decay::kPerChannel, Update::kDelta, 8, {length}});
    ASSERT_GT(plan.segment_tokens, 0);
    for (int begin = 0; begin < length; begin += plan.window_tokens) {
      const int tokens = std::min(plan.window_tokens, length - begin);
      EXPECT_EQ((tokens + plan.segment_tokens - 1) / plan.segment_tokens, 16) << begin;
    }
  }
  // A long sequence behind short ones has most of a window to itself.
  std::vector<int> lengths(60, 5000);
  lengths.push_back(300000);
  EXPECT_GT(Plan({Decay::kPerChannel, Update::kDelta, 8, lengths}).segment_tokens, 0);
}

// 64 slices leave half the GPU idle: the windows of a very long prompt are cut in two.
TEST(PlanPrefill, WindowsOfVeryLongPromptsAreHalved) {
  for (int length : {32768, 50000, 65536, 131072, 1 << 20}) {
    SCOPED_TRACE(length);
    const PrefillPlan plan = Plan({Decay::kPerToken, Update::kDelta, 32, {length}});
    EXPECT_TRUE(plan.ahead);
    EXPECT_GE(length, 2 * plan.window_tokens - kWideChunk);
    EXPECT_EQ((plan.window_tokens + plan.segment_tokens - 1) / plan.segment_tokens, 2);
    EXPECT_EQ(plan.segment_tokens % kWideChunk, 0);
  }
  // Too short; slices for the whole GPU; a state that every window would round.
  EXPECT_EQ(Plan({Decay::kPerToken, Update::kDelta, 32, {16384}}).segment_tokens, 0);
  EXPECT_EQ(Plan({Decay::kPerToken, Update::kDelta, 48, {65536}}).segment_tokens, 0);
  EXPECT_EQ(Plan({Decay::kPerToken, Update::kDelta, 32, {65536}, DType::kBF16}).segment_tokens, 0);
}

bool LeavesRoom(int heads, int key_dim, int value_dim, int tokens) {
  RecurrenceSpec spec;
  spec.decay = Decay::kPerToken;
  spec.update = Update::kDelta;
  spec.heads = spec.q_heads = spec.k_heads = spec.v_heads = spec.decay_heads = heads;
  spec.key_dim = key_dim;
  spec.value_dim = value_dim;
  return ScanLeavesRoom(spec, tokens, 132);
}

// A short prompt's scan begins beside its first kernel where blocks of both have a multiprocessor
// each; channels are parted where there are no more than two blocks a multiprocessor.
TEST(PlanPrefill, ShortPromptsTakeWhatIsIdle) {
  const auto wide = [](int heads, int length) {
    return Plan({Decay::kPerToken, Update::kDelta, heads, {length}});
  };
  EXPECT_TRUE(wide(16, 128).beside_first);
  EXPECT_FALSE(wide(40, 128).beside_first);
  EXPECT_FALSE(wide(16, 1024).beside_first);
  EXPECT_FALSE(
      Plan({Decay::kPerToken, Update::kDelta, 16, {128}, DType::kF32, false}).beside_first);
  EXPECT_FALSE(Plan({Decay::kPerToken, Update::kAdditive, 16, {128}}).beside_first);

  const auto channels = [](Update update, int length) {
    return Plan({Decay::kPerChannel, update, 16, {length}});
  };
  EXPECT_TRUE(channels(Update::kDelta, 128).part_channels);
  EXPECT_FALSE(channels(Update::kDelta, 128).beside_first);
  EXPECT_TRUE(channels(Update::kAdditive, 128).part_channels);
  EXPECT_TRUE(channels(Update::kAdditive, 128).beside_first);
  EXPECT_FALSE(channels(Update::kDelta, 512).part_channels);
  EXPECT_FALSE(wide(16, 128).part_channels);
}

// As it was measured (README.md, "Beside the recurrence").
TEST(PlanPrefill, FewHeadsLeaveRoom) {
  for (int tokens : {512, 2048, 8192}) {
    EXPECT_TRUE(LeavesRoom(6, 256, 512, tokens)) << tokens;
    EXPECT_TRUE(LeavesRoom(4, 256, 512, tokens)) << tokens;
    EXPECT_FALSE(LeavesRoom(12, 256, 512, tokens)) << tokens;
    EXPECT_FALSE(LeavesRoom(64, 128, 128, tokens)) << tokens;
  }
  EXPECT_FALSE(LeavesRoom(16, 128, 128, 16384));  // in segments
}

}  // namespace
}  // namespace fla::cuda
