// The CPU recurrence on every instruction set that this machine has, not only the best one.
#include <gtest/gtest.h>

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

TEST(RecurrenceTargetsTest, EveryInstructionSetEqualsReference) {
  const Device cpu{};
  int64_t left = hwy::SupportedTargets() & HWY_TARGETS;
  ASSERT_NE(left, 0);
  for (; left != 0; left &= left - 1) {
    const int64_t target = left & -left;
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

}  // namespace
}  // namespace fla::testing
