// Which kernel steps on a GPU: a function of the shape, so no GPU is needed.
#include <gtest/gtest.h>

#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {
namespace {

constexpr int kMultiprocessors = 132;

RecurrenceParams Params(int num_sequences, int heads, int key_dim, int value_dim) {
  RecurrenceParams p = {};
  p.num_sequences = num_sequences;
  p.heads = heads;
  p.key_dim = key_dim;
  p.value_dim = value_dim;
  return p;
}

StepPlan Plan(const RecurrenceParams& p, DType dtype = DType::kBF16, bool hopper = true) {
  return PlanStep(p, dtype, kMultiprocessors, hopper);
}

TEST(PlanStep, TilesFromTwoRoundsOn) {
  // Two tiles of 256 rows are on a multiprocessor at once: two rounds are 4 * 132 = 66 * 8.
  EXPECT_FALSE(Plan(Params(65, 1, 256, 512)).tiles);
  const StepPlan plan = Plan(Params(66, 1, 256, 512));
  EXPECT_TRUE(plan.tiles);
  EXPECT_EQ(plan.columns, 64);
  // Four of 128 rows, eight of 64.
  EXPECT_FALSE(Plan(Params(32, 16, 128, 128)).tiles);
  EXPECT_TRUE(Plan(Params(33, 16, 128, 128)).tiles);
  EXPECT_FALSE(Plan(Params(131, 16, 64, 64)).tiles);
  EXPECT_TRUE(Plan(Params(132, 16, 64, 64)).tiles);
  // No product overflows.
  EXPECT_TRUE(Plan(Params(65535, 65535, 256, 512)).tiles);
}

TEST(PlanStep, TilesWantHopperAndBf16ActivationsAndOneToken) {
  const RecurrenceParams many = Params(256, 16, 128, 128);
  EXPECT_TRUE(Plan(many).tiles);
  EXPECT_FALSE(Plan(many, DType::kBF16, /*hopper=*/false).tiles);
  EXPECT_FALSE(Plan(many, DType::kF32).tiles);
  RecurrenceParams prefill = many;
  const int sums[] = {0};
  prefill.cu_seqlens = sums;
  EXPECT_FALSE(Plan(prefill).tiles);
}

TEST(PlanStep, TilesDoNotHangOverTheState) {
  EXPECT_FALSE(Plan(Params(256, 16, 128, 96)).tiles);
  EXPECT_TRUE(HasTileStep(Params(256, 16, 128, 96), DType::kBF16));
  EXPECT_FALSE(HasTileStep(Params(256, 16, 128, 48), DType::kBF16));
}

TEST(PlanStep, FewStatesAreCutInto16Columns) {
  // 16 blocks of 32 columns a state: 16 states have fewer than two blocks a multiprocessor.
  EXPECT_EQ(Plan(Params(16, 1, 256, 512)).columns, 16);
  EXPECT_EQ(Plan(Params(17, 1, 256, 512)).columns, 32);
  EXPECT_EQ(Plan(Params(1, 1, 48, 512)).columns, 32) << "16 columns want runs of whole rows";
}

}  // namespace
}  // namespace fla::cuda
