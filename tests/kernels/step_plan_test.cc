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

StepPlan Plan(const RecurrenceParams& p, DType dtype = DType::kBF16, bool hopper = true,
              bool chained = false) {
  return PlanStep(p, dtype, kMultiprocessors, hopper, chained);
}

TEST(PlanStep, TilesWhereThereAreManyRounds) {
  // Three tiles of 256 rows are on a multiprocessor at once, six of 128; ten rounds of 132 times
  // that, with eight and two tiles a state.
  EXPECT_EQ(Plan(Params(494, 1, 256, 512)).kernel, StepKernel::kLoads);
  const StepPlan plan = Plan(Params(495, 1, 256, 512));
  EXPECT_EQ(plan.kernel, StepKernel::kTiles);
  EXPECT_EQ(plan.columns, 64);
  RecurrenceParams p = Params(3959, 1, 128, 128);
  EXPECT_EQ(Plan(p).kernel, StepKernel::kLoads);
  p.num_sequences = 3960;
  EXPECT_EQ(Plan(p).kernel, StepKernel::kTiles);
  // Ten tiles of bf16, one round and a half: 1980.
  p.bf16_state = true;
  p.num_sequences = 989;
  EXPECT_EQ(Plan(p).kernel, StepKernel::kLoads);
  p.num_sequences = 990;
  EXPECT_EQ(Plan(p).kernel, StepKernel::kTiles);
  // The same where there is no kernel of the other kind: four tiles of 192 rows, two a state.
  EXPECT_EQ(Plan(Params(296, 1, 192, 128)).kernel, StepKernel::kAny);
  EXPECT_EQ(Plan(Params(297, 1, 192, 128)).kernel, StepKernel::kTiles);
  // No product overflows.
  EXPECT_EQ(Plan(Params(65535, 65535, 256, 512)).kernel, StepKernel::kTiles);
}

TEST(PlanStep, TilesOfFewerRoundsInARecordedStep) {
  const auto in_step = [](RecurrenceParams p, Decay decay) {
    p.decay = decay;
    return Plan(p, DType::kBF16, /*hopper=*/true, /*chained=*/true).kernel;
  };
  // Three rounds of large tiles, eight of others and where each row has a decay of its own.
  EXPECT_EQ(in_step(Params(148, 1, 256, 512), Decay::kPerToken), StepKernel::kLoads);
  EXPECT_EQ(in_step(Params(149, 1, 256, 512), Decay::kPerToken), StepKernel::kTiles);
  EXPECT_EQ(in_step(Params(395, 1, 256, 512), Decay::kPerChannel), StepKernel::kLoads);
  EXPECT_EQ(in_step(Params(396, 1, 256, 512), Decay::kPerChannel), StepKernel::kTiles);
  EXPECT_EQ(in_step(Params(3167, 1, 128, 128), Decay::kPerToken), StepKernel::kLoads);
  EXPECT_EQ(in_step(Params(3168, 1, 128, 128), Decay::kPerToken), StepKernel::kTiles);
}

TEST(PlanStep, TilesWantHopperAndBf16ActivationsAndOneToken) {
  const RecurrenceParams many = Params(256, 16, 128, 128);
  EXPECT_EQ(Plan(many).kernel, StepKernel::kTiles);
  EXPECT_NE(Plan(many, DType::kBF16, /*hopper=*/false).kernel, StepKernel::kTiles);
  EXPECT_NE(Plan(many, DType::kF32).kernel, StepKernel::kTiles);
  RecurrenceParams prefill = many;
  const int sums[] = {0};
  prefill.cu_seqlens = sums;
  EXPECT_NE(Plan(prefill).kernel, StepKernel::kTiles);
}

TEST(PlanStep, TilesDoNotHangOverTheState) {
  EXPECT_NE(Plan(Params(256, 16, 128, 96)).kernel, StepKernel::kTiles);
  EXPECT_TRUE(HasTileStep(Params(256, 16, 128, 96), DType::kBF16));
  EXPECT_FALSE(HasTileStep(Params(256, 16, 128, 48), DType::kBF16));
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
