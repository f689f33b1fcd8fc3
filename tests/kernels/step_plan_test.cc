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
  p.aligned_rows = true;
  return p;
}

StepPlan Plan(const RecurrenceParams& p, DType dtype = DType::kBF16, bool hopper = true) {
  return PlanStep(p, dtype, kMultiprocessors, hopper);
}

TEST(PlanStep, StatesThatTheCacheHasNoRoomForAreKeptInIt) {
  // 512 KB a state of 256x512, 64 KB of 128x128; 50 MB of cache.
  EXPECT_FALSE(Plan(Params(100, 1, 256, 512)).many);
  StepPlan plan = Plan(Params(101, 1, 256, 512));
  EXPECT_TRUE(plan.many);
  EXPECT_EQ(plan.kernel, StepKernel::kLoads);
  EXPECT_EQ(plan.columns, 32);
  EXPECT_FALSE(Plan(Params(800, 1, 128, 128)).many);
  plan = Plan(Params(801, 1, 128, 128));
  EXPECT_TRUE(plan.many);
  EXPECT_EQ(plan.columns, 64);
  EXPECT_EQ(Plan(Params(2000, 1, 128, 96)).columns, 32) << "not a multiple of 64";
  EXPECT_FALSE(Plan(Params(801, 1, 128, 128), DType::kBF16, /*hopper=*/false).many);
  EXPECT_FALSE(Plan(Params(801, 1, 128, 128), DType::kF32).many);
  // No product overflows.
  EXPECT_TRUE(Plan(Params(65535, 65535, 256, 512)).many);
}

TEST(PlanStep, TilesOfBf16StatesAndWhereLoadsHaveNoKernel) {
  // Ten tiles of 128 rows of bf16 are on a multiprocessor at once, two a state; one round and a
  // half: 1980.
  RecurrenceParams p = Params(989, 1, 128, 128);
  p.bf16_state = true;
  EXPECT_EQ(Plan(p).kernel, StepKernel::kLoads);
  p.num_sequences = 990;
  const StepPlan plan = Plan(p);
  EXPECT_EQ(plan.kernel, StepKernel::kTiles);
  EXPECT_EQ(plan.columns, 64);
  // Four tiles of 192 rows, two a state.
  EXPECT_EQ(Plan(Params(296, 1, 192, 128)).kernel, StepKernel::kAny);
  EXPECT_EQ(Plan(Params(297, 1, 192, 128)).kernel, StepKernel::kTiles);
  EXPECT_EQ(Plan(Params(65535, 65535, 192, 512)).kernel, StepKernel::kTiles);
}

TEST(PlanStep, TilesWantHopperAndBf16ActivationsAndOneToken) {
  const RecurrenceParams many = Params(256, 16, 192, 128);
  EXPECT_EQ(Plan(many).kernel, StepKernel::kTiles);
  EXPECT_NE(Plan(many, DType::kBF16, /*hopper=*/false).kernel, StepKernel::kTiles);
  EXPECT_NE(Plan(many, DType::kF32).kernel, StepKernel::kTiles);
  RecurrenceParams prefill = many;
  const int sums[] = {0};
  prefill.cu_seqlens = sums;
  EXPECT_NE(Plan(prefill).kernel, StepKernel::kTiles);
}

TEST(PlanStep, TilesDoNotHangOverTheState) {
  EXPECT_NE(Plan(Params(256, 16, 192, 96)).kernel, StepKernel::kTiles);
  EXPECT_TRUE(HasTileStep(Params(256, 16, 192, 96), DType::kBF16));
  EXPECT_FALSE(HasTileStep(Params(256, 16, 192, 48), DType::kBF16));
}

TEST(PlanStep, FewStatesAreCutInto16Columns) {
  // 16 blocks of 32 columns a state: 16 states have fewer than two blocks a multiprocessor.
  EXPECT_EQ(Plan(Params(16, 1, 256, 512)).columns, 16);
  EXPECT_EQ(Plan(Params(17, 1, 256, 512)).columns, 32);
  EXPECT_EQ(Plan(Params(1, 1, 48, 512)).columns, 32) << "16 columns want runs of whole rows";
}

TEST(PlanStep, InF32TheCutDoesNotDependOnTheNumberOfSequences) {
  for (const int sequences : {1, 2, 17, 256, 65535}) {
    EXPECT_EQ(Plan(Params(sequences, 16, 256, 512), DType::kF32).columns, 16);
    EXPECT_EQ(Plan(Params(sequences, 17, 256, 512), DType::kF32).columns, 32);
  }
}

TEST(PlanStep, LoadsWantBf16AlignedRowsAndATunedHeadSize) {
  const RecurrenceParams few = Params(1, 4, 128, 96);
  EXPECT_EQ(Plan(few).kernel, StepKernel::kLoads);
  EXPECT_EQ(Plan(few, DType::kBF16, /*hopper=*/false).kernel, StepKernel::kLoads);
  EXPECT_EQ(Plan(few, DType::kF32).kernel, StepKernel::kAny);
  EXPECT_EQ(Plan(Params(1, 4, 96, 96)).kernel, StepKernel::kAny);
  EXPECT_EQ(Plan(Params(1, 4, 128, 80)).kernel, StepKernel::kAny);
  RecurrenceParams p = few;
  p.aligned_rows = false;
  EXPECT_EQ(Plan(p).kernel, StepKernel::kAny);
  const int sums[] = {0};
  p = few;
  p.cu_seqlens = sums;
  EXPECT_EQ(Plan(p).kernel, StepKernel::kAny);
}

}  // namespace
}  // namespace fla::cuda
