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

TEST(PlanStep, TilesFromOneAndAHalfRoundsOn) {
  // Three tiles of 256 rows are on a multiprocessor at once: 4.5 * 132 = 594 tiles, 8 a state.
  EXPECT_FALSE(Plan(Params(74, 1, 256, 512)).tiles);
  const StepPlan plan = Plan(Params(75, 1, 256, 512));
  EXPECT_TRUE(plan.tiles);
  EXPECT_EQ(plan.columns, 64);
  // Six of 128 rows: 1188, of bf16 ten: 1980.
  RecurrenceParams p = Params(593, 1, 128, 128);
  EXPECT_FALSE(Plan(p).tiles);
  p.num_sequences = 594;
  EXPECT_TRUE(Plan(p).tiles);
  p.bf16_state = true;
  EXPECT_FALSE(Plan(p).tiles);
  p.num_sequences = 990;
  EXPECT_TRUE(Plan(p).tiles);
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
