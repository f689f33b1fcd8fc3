// Which prefills have their sequences cut into segments. No GPU is needed: the plan is a pure
// function of shapes.
#include "kernels/cuda/segment_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace fla::cuda {
namespace {

constexpr int kMultiprocessors = 132;
constexpr ScanShape kKda4 = {4, 128, 128, true, true, false, kMultiprocessors};
constexpr WholeScan kSplitKeys = {2, 1};

std::vector<int> Sums(const std::vector<int>& lengths) {
  std::vector<int> sums = {0};
  for (int length : lengths) sums.push_back(sums.back() + length);
  return sums;
}

int SegmentsOf(int length, const SegmentPlan& plan) {
  return (length + plan.segment_tokens - 1) / plan.segment_tokens;
}

ScanShape WithHeads(ScanShape shape, int heads) {
  shape.heads = heads;
  return shape;
}

TEST(SegmentPlanTest, LongSequenceOfFewHeadsFillsTheGpu) {
  for (int heads : {1, 2, 4, 8}) {
    SCOPED_TRACE(heads);
    const SegmentPlan plan = PlanSegments(WithHeads(kKda4, heads), kSplitKeys, Sums({65536}));
    ASSERT_GT(plan.segment_tokens, 0);
    const int blocks_of_head = 4 / plan.slices_per_block;  // slices of 32 columns
    const int blocks = heads * blocks_of_head * SegmentsOf(65536, plan);
    EXPECT_GE(blocks, kMultiprocessors * 8 / 10);
    EXPECT_LE(blocks, kMultiprocessors);  // a short one behind the others would cost a round
  }
}

TEST(SegmentPlanTest, FullGridIsNotCut) {
  const ScanShape gdn = {64, 128, 128, true, false, true, kMultiprocessors};
  EXPECT_EQ(PlanSegments(WithHeads(kKda4, 64), {1, 4}, Sums({8192})).segment_tokens, 0);
  EXPECT_EQ(PlanSegments(WithHeads(kKda4, 96), {1, 4}, Sums({8192})).segment_tokens, 0);
  EXPECT_EQ(PlanSegments(gdn, {1, 1}, Sums({8192})).segment_tokens, 0);
  EXPECT_EQ(PlanSegments(gdn, {1, 2}, Sums({8192, 8192, 8192, 8192})).segment_tokens, 0);
  const std::vector<int> many(64, 4096);
  EXPECT_EQ(PlanSegments(kKda4, {1, 4}, Sums(many)).segment_tokens, 0);
}

TEST(SegmentPlanTest, ShortSequencesAreNotCut) {
  for (int length : {0, 1, 64, 300, 511}) {
    EXPECT_EQ(PlanSegments(kKda4, kSplitKeys, Sums({length})).segment_tokens, 0) << length;
  }
  EXPECT_EQ(PlanSegments(kKda4, kSplitKeys, Sums({})).segment_tokens, 0);
}

TEST(SegmentPlanTest, LongSequenceAmongShortOnesIsCut) {
  std::vector<int> lengths(20, 50);
  lengths.insert(lengths.begin() + 10, 65536);
  const SegmentPlan alone = PlanSegments(kKda4, kSplitKeys, Sums({65536}));
  const SegmentPlan among = PlanSegments(kKda4, {1, 4}, Sums(lengths));
  ASSERT_GT(among.segment_tokens, 0);
  EXPECT_LE(among.segment_tokens, 2 * alone.segment_tokens);
}

TEST(SegmentPlanTest, AGpuOfOneMultiprocessorIsFull) {
  ScanShape shape = kKda4;
  shape.multiprocessors = 1;
  EXPECT_EQ(PlanSegments(shape, {1, 8}, Sums({65536})).segment_tokens, 0);
}

// The delta rule pays for M: where the additive rule gains a little, it gains nothing.
TEST(SegmentPlanTest, DeltaNeedsMoreIdleMultiprocessors) {
  const auto is_cut = [](bool delta, int heads) {
    const ScanShape shape = {heads, 128, 128, delta, true, false, kMultiprocessors};
    return PlanSegments(shape, {2, 1}, Sums({32768})).segment_tokens > 0;
  };
  int most_heads[2] = {};
  for (int delta : {0, 1}) {
    for (int heads = 1; heads <= 64; ++heads) {
      if (is_cut(delta == 1, heads)) most_heads[delta] = heads;
    }
  }
  EXPECT_GT(most_heads[1], 0);
  EXPECT_LE(most_heads[1], most_heads[0]);
}

// What the kernels and the workspace rely on, over the shapes that there are.
TEST(SegmentPlanTest, PlansAreWithinTheKernelsLimits) {
  for (int key_dim : {16, 64, 128, 192, 256}) {
    for (int value_dim : {16, 64, 128, 512}) {
      for (int heads : {1, 6, 16, 64}) {
        for (int variant = 0; variant < 4; ++variant) {
          for (int length : {600, 2048, 16384, 65536, 1 << 20}) {
            const bool delta = variant % 2 == 1, wide = variant / 2 == 1;
            const ScanShape shape = {heads, key_dim, value_dim,       delta,
                                     !wide, wide,    kMultiprocessors};
            const std::vector<int> cu_seqlens = Sums({17, length, 0, 700});
            const SegmentPlan plan = PlanSegments(shape, {1, 1}, cu_seqlens);
            if (plan.segment_tokens == 0) continue;
            SCOPED_TRACE(::testing::Message()
                         << "K " << key_dim << " V " << value_dim << " heads " << heads
                         << " variant " << variant << " length " << length);
            EXPECT_EQ(plan.segment_tokens % 64, 0);
            EXPECT_GE(plan.segment_tokens, 256);
            EXPECT_LT(plan.segment_tokens, length);
            const int max_slices = !wide ? 4 / MinKeyParts(key_dim) : key_dim > 128 ? 1 : 2;
            EXPECT_LE(plan.slices_per_block, max_slices);
            EXPECT_EQ(plan.slices_per_block & (plan.slices_per_block - 1), 0);
            const int64_t slots = cu_seqlens.back() / plan.segment_tokens + 4;
            EXPECT_LE(slots * heads * SegmentNumbers(key_dim, value_dim, delta) * 4,
                      int64_t{256} << 20);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fla::cuda
