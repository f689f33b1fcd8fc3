// The CPU recurrence on every instruction set that this machine has, not only the best one.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "hwy/highway.h"
#include "tests/kernels/recurrence_problem.h"

namespace fla::testing {
namespace {

// While it lives, Highway dispatches to one instruction set.
class OnlyTarget {
 public:
  explicit OnlyTarget(int64_t target) { Choose(target); }
  ~OnlyTarget() { Choose(0); }

 private:
  static void Choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

std::vector<int64_t> Targets() {
  std::vector<int64_t> targets;
  for (int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1) {
    targets.push_back(left & -left);
  }
  return targets;
}

TEST(RecurrenceTargetsTest, EveryInstructionSetEqualsReference) {
  const Device cpu{};
  ASSERT_FALSE(Targets().empty());
  for (int64_t target : Targets()) {
    const OnlyTarget only(target);
    for (Cell cell : AllCells()) {
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        for (const auto& [key_dim, value_dim] : {std::pair(64, 64), std::pair(20, 41)}) {
          SCOPED_TRACE(std::string(hwy::TargetName(target)) + " " + NameOf(cell) + " " +
                       fla::NameOf(dtype) + " K " + std::to_string(key_dim));
          const RecurrenceSpec spec = SpecOf(cell, key_dim, value_dim, 1);
          const auto prompts = RandomProblem(spec, dtype, {100, 1, 17}, 20);
          ExpectClose(prompts, RunPrefill(cpu, prompts), RunReference(prompts),
                      BoundsFor(cpu, dtype));
          const auto decode = RandomProblem(spec, dtype, {1, 1}, 21);
          ExpectClose(decode, RunStep(cpu, decode), RunReference(decode), BoundsFor(cpu, dtype));
        }
      }
    }
  }
}

// One token with one nonzero key channel: out is q_0 v, exact in f32, then rounded once.
TEST(RecurrenceTargetsTest, Bf16OutputsAreRoundedToNearest) {
  RecurrenceSpec spec = SpecOf({Decay::kNone, Update::kAdditive}, 16, 300, 1);
  spec.scale = 1.0f;
  RecurrenceProblem problem = RandomProblem(spec, DType::kBF16, {1}, 22);
  std::ranges::fill(problem.k, 0.0);
  problem.k[0] = 1.0;
  problem.q[0] = 1.0 + 1.0 / 128;  // v + v / 128: many of these are halfway between two results
  std::ranges::fill(problem.state, 0.0f);
  std::vector<float> wanted;
  for (double v : problem.v) {
    wanted.push_back(static_cast<float>(BFloat16(static_cast<float>(problem.q[0] * v))));
  }
  for (int64_t target : Targets()) {
    const OnlyTarget only(target);
    SCOPED_TRACE(hwy::TargetName(target));
    ExpectSame(RunPrefill(Device{}, problem).out, wanted, "prefill");
    ExpectSame(RunStep(Device{}, problem).out, wanted, "step");
  }
}

}  // namespace
}  // namespace fla::testing
