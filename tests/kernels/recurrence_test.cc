// Properties that every backend of the recurrence has, over all cells of decay x update.
#include "kernels/recurrence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <numeric>
#include <ostream>

#include "kernels/cpu/parallel.h"
#include "tests/kernels/recurrence_problem.h"

namespace fla::testing {
namespace {

// Around the sub-chunks and chunks of the backends, empty and long ones.
const std::vector<int> kRaggedLengths = {17, 0, 1, 64, 65, 2, 63, 16, 15, 129, 0, 31, 128, 300};

std::vector<int> Everyone(const RecurrenceProblem& problem) {
  std::vector<int> sequences(problem.lengths.size());
  std::iota(sequences.begin(), sequences.end(), 0);
  return sequences;
}

// A sequence's outputs within those of a problem.
std::vector<float> OutputsOf(const RecurrenceProblem& problem, const RecurrenceResult& result,
                             int sequence) {
  const size_t width = problem.spec.heads * problem.spec.value_dim;
  const std::vector<int> first = problem.cu_seqlens();
  return {result.out.begin() + first[sequence] * width,
          result.out.begin() + first[sequence + 1] * width};
}

std::vector<float> StateOf(const RecurrenceProblem& problem, const std::vector<float>& state,
                           int slot) {
  const size_t size = state.size() / problem.num_slots;
  return {state.begin() + slot * size, state.begin() + (slot + 1) * size};
}

struct Setting {
  Device device;
  Cell cell;
  DType dtype;

  friend std::ostream& operator<<(std::ostream& out, const Setting& setting) {
    return out << fla::NameOf(setting.device) << " " << NameOf(setting.cell) << " "
               << fla::NameOf(setting.dtype);
  }
};

std::vector<Setting> AllSettings() {
  std::vector<Setting> settings;
  for (Device device : RecurrenceDevices()) {
    for (Cell cell : AllCells()) {
      for (DType dtype : {DType::kF32, DType::kBF16}) settings.push_back({device, cell, dtype});
    }
  }
  return settings;
}

class RecurrenceTest : public ::testing::TestWithParam<Setting> {
 protected:
  Device device() const { return GetParam().device; }
  Cell cell() const { return GetParam().cell; }
  DType dtype() const { return GetParam().dtype; }
  RecurrenceBounds bounds() const { return BoundsFor(device(), dtype()); }
  RecurrenceSpec Spec(int key_dim = 64, int value_dim = 64, int heads = 2) const {
    return SpecOf(cell(), key_dim, value_dim, heads);
  }
};

INSTANTIATE_TEST_SUITE_P(All, RecurrenceTest, ::testing::ValuesIn(AllSettings()),
                         [](const ::testing::TestParamInfo<Setting>& info) {
                           const Setting& setting = info.param;
                           return std::string(setting.device.is_cuda() ? "Cuda" : "Cpu") +
                                  NameOf(setting.cell) + "_" + fla::NameOf(setting.dtype);
                         });

TEST_P(RecurrenceTest, PrefillEqualsReference) {
  const auto problem = RandomProblem(Spec(), dtype(), kRaggedLengths, 1);
  ExpectClose(problem, RunPrefill(device(), problem), RunReference(problem), bounds());
}

TEST_P(RecurrenceTest, StepEqualsReference) {
  const auto problem = RandomProblem(Spec(), dtype(), {3, 0, 40, 1, 17}, 2);
  ExpectClose(problem, RunSteps(device(), problem), RunReference(problem), bounds());
}

TEST_P(RecurrenceTest, StepEqualsPrefill) {
  const auto problem = RandomProblem(Spec(), dtype(), {65, 1, 30}, 3);
  RecurrenceBounds twice = bounds();
  twice.out *= 2, twice.state *= 2;
  ExpectClose(problem, RunSteps(device(), problem), RunPrefill(device(), problem), twice);
}

TEST_P(RecurrenceTest, PrefillContinuesFromItsState) {
  const auto problem = RandomProblem(Spec(), dtype(), {200, 37, 64, 129}, 4);
  const auto wanted = RunReference(problem);
  for (int cut : {1, 16, 37, 63, 64, 65, 128}) {
    const auto head = Part(problem, Everyone(problem), 0, cut, problem.state);
    const auto first = RunPrefill(device(), head);
    const auto tail = Part(problem, Everyone(problem), cut, INT_MAX, first.state);
    const auto second = RunPrefill(device(), tail);
    RecurrenceResult joined{{}, second.state};
    for (size_t n = 0; n < problem.lengths.size(); ++n) {
      for (const auto& outputs : {OutputsOf(head, first, n), OutputsOf(tail, second, n)}) {
        joined.out.insert(joined.out.end(), outputs.begin(), outputs.end());
      }
    }
    SCOPED_TRACE(cut);
    ExpectClose(problem, joined, wanted, bounds());
  }
}

TEST_P(RecurrenceTest, GroupedHeads) {
  struct {
    int q, k, v, decay;
  } const groupings[] = {{4, 2, 2, 2}, {2, 2, 4, 4}, {4, 1, 1, 1}, {1, 4, 2, 4}};
  for (const auto& heads : groupings) {
    RecurrenceSpec spec = Spec(32, 48, 4);
    spec.q_heads = heads.q, spec.k_heads = heads.k, spec.v_heads = heads.v;
    spec.decay_heads = heads.decay;
    SCOPED_TRACE(heads.q * 1000 + heads.k * 100 + heads.v * 10 + heads.decay);
    const auto prompts = RandomProblem(spec, dtype(), {70, 3, 16}, 5);
    ExpectClose(prompts, RunPrefill(device(), prompts), RunReference(prompts), bounds());
    const auto decode = RandomProblem(spec, dtype(), {1, 1, 1, 1, 1}, 6);
    ExpectClose(decode, RunStep(device(), decode), RunReference(decode), bounds());
  }
}

TEST_P(RecurrenceTest, HeadSizesOfRealCheckpoints) {
  constexpr int kSizes[][2] = {{16, 16}, {32, 512}, {96, 192}, {128, 128}, {256, 16}, {256, 512}};
  for (const auto& [key_dim, value_dim] : kSizes) {
    SCOPED_TRACE(std::to_string(key_dim) + " x " + std::to_string(value_dim));
    const auto prompts = RandomProblem(Spec(key_dim, value_dim, 1), dtype(), {83, 1}, 7);
    ExpectClose(prompts, RunPrefill(device(), prompts), RunReference(prompts), bounds());
    const auto decode = RandomProblem(Spec(key_dim, value_dim, 1), dtype(), {1, 1}, 8);
    ExpectClose(decode, RunStep(device(), decode), RunReference(decode), bounds());
  }
}

TEST_P(RecurrenceTest, OddHeadSizesOnTheCpu) {
  if (device().is_cuda()) GTEST_SKIP() << "the GPU's kernels want multiples of 16";
  constexpr int kSizes[][2] = {{1, 33}, {3, 5}, {17, 15}, {20, 100}, {33, 129}};
  for (const auto& [key_dim, value_dim] : kSizes) {
    SCOPED_TRACE(std::to_string(key_dim) + " x " + std::to_string(value_dim));
    const auto prompts = RandomProblem(Spec(key_dim, value_dim, 1), dtype(), {67, 18}, 9);
    ExpectClose(prompts, RunPrefill(device(), prompts), RunReference(prompts), bounds());
    const auto decode = RandomProblem(Spec(key_dim, value_dim, 1), dtype(), {1, 1}, 10);
    ExpectClose(decode, RunStep(device(), decode), RunReference(decode), bounds());
  }
}

// Unbounded gates: nothing overflows, and a strong decay costs its neighbours no precision.
TEST_P(RecurrenceTest, StrongDecays) {
  for (Gates gates : {Gates::kMixed, Gates::kStrong}) {
    const auto problem = RandomProblem(Spec(), dtype(), {130, 64, 7}, 11, gates);
    const auto wanted = RunReference(problem);
    const auto prefill = RunPrefill(device(), problem);
    EXPECT_TRUE(std::ranges::all_of(prefill.out, [](float x) { return std::isfinite(x); }));
    ExpectClose(problem, prefill, wanted, bounds());
    ExpectClose(problem, RunSteps(device(), problem), wanted, bounds());
  }
}

TEST_P(RecurrenceTest, InfiniteDecayForgetsAndNanStays) {
  if (cell().decay == Decay::kNone) return;
  auto problem = RandomProblem(Spec(), dtype(), {40}, 12);
  std::ranges::fill(problem.log_decay, -INFINITY);
  ExpectClose(problem, RunPrefill(device(), problem), RunReference(problem), bounds());
  std::ranges::fill(problem.log_decay, NAN);
  const auto one = Part(problem, {0}, 0, 1, problem.state);
  for (float x : RunPrefill(device(), one).out) ASSERT_TRUE(std::isnan(x));
  for (float x : RunStep(device(), one).out) ASSERT_TRUE(std::isnan(x));
}

// Write strengths up to 2 (negative eigenvalues) over a long prompt.
TEST_P(RecurrenceTest, LongPrompt) {
  const auto problem = RandomProblem(Spec(32, 32, 1), dtype(), {1500}, 13, Gates::kMild, 2.0f);
  ExpectClose(problem, RunPrefill(device(), problem), RunReference(problem), bounds());
}

TEST_P(RecurrenceTest, PrefillOfProjectionsEqualsReference) {
  for (GateKind kind : {GateKind::kLogSigmoid, GateKind::kSoftplus, GateKind::kBoundedSigmoid}) {
    SCOPED_TRACE(static_cast<int>(kind));
    for (int key_dim : {48, 128}) {
      const auto problem =
          Projected(RandomProblem(Spec(key_dim), dtype(), kRaggedLengths, 21), kind, 22);
      if (!TakesProjections(device(), problem)) {
        EXPECT_FALSE(device().is_cuda() && dtype() == DType::kBF16 &&
                     cell().decay == Decay::kPerChannel);
        continue;
      }
      ExpectClose(problem, RunPrefill(device(), problem), RunReference(problem), bounds());
    }
  }
}

// A GPU cuts the long one into segments.
TEST_P(RecurrenceTest, LongSequenceAmongShortOnes) {
  const auto problem = RandomProblem(Spec(128, 128, 1), dtype(), {5, 2500, 0, 70}, 20);
  ExpectClose(problem, RunPrefill(device(), problem), RunReference(problem), bounds());
}

TEST_P(RecurrenceTest, HeadSizesThatNoTileDivides) {
  for (const auto& [key_dim, value_dim] :
       {std::pair{8, 16}, std::pair{16, 24}, std::pair{5, 3}, std::pair{272, 40}}) {
    const auto problem = RandomProblem(Spec(key_dim, value_dim, 2), dtype(), {33, 0, 1, 17}, 16);
    ExpectClose(problem, RunPrefill(device(), problem), RunReference(problem), bounds());
    const auto step = Part(problem, {0, 2, 3}, 0, 1, problem.state);
    ExpectClose(step, RunStep(device(), step), RunReference(step), bounds());
  }
}

TEST_P(RecurrenceTest, PermutedBatchGivesPermutedResults) {
  const auto problem = RandomProblem(Spec(), dtype(), {65, 1, 0, 130, 20}, 14);
  const std::vector<int> order = {3, 0, 4, 2, 1};
  const auto permuted = Part(problem, order, 0, INT_MAX, problem.state);
  const auto wanted = RunPrefill(device(), problem);
  const auto actual = RunPrefill(device(), permuted);
  for (size_t i = 0; i < order.size(); ++i) {
    ExpectSame(OutputsOf(permuted, actual, i), OutputsOf(problem, wanted, order[i]), "out");
  }
  ExpectSame(actual.state, wanted.state, "state");
}

TEST_P(RecurrenceTest, CompanyDoesNotChangeASequence) {
  if (device().is_cuda() && dtype() != DType::kF32) {
    GTEST_SKIP() << "a GPU cuts sequences of bf16 by how full it is";
  }
  // So many that a GPU would cut states otherwise than those of one.
  std::vector<int> lengths = {65, 1, 130, 20};
  lengths.insert(lengths.end(), 30, 2);
  const auto problem = RandomProblem(Spec(64, 160, 2), dtype(), lengths, 15);
  const auto decode = Part(problem, Everyone(problem), 0, 1, problem.state);
  const auto together = RunPrefill(device(), problem);
  const auto step_together = RunStep(device(), decode);
  for (int n : Everyone(problem)) {
    const auto alone = Part(problem, {n}, 0, INT_MAX, problem.state);
    const auto result = RunPrefill(device(), alone);
    ExpectSame(result.out, OutputsOf(problem, together, n), "out");
    ExpectSame(StateOf(problem, result.state, problem.slots[n]),
               StateOf(problem, together.state, problem.slots[n]), "state");
    const auto step = RunStep(device(), Part(problem, {n}, 0, 1, problem.state));
    ExpectSame(step.out, OutputsOf(decode, step_together, n), "step out");
  }
}

TEST_P(RecurrenceTest, UntouchedSlotsStayAsTheyAre) {
  const auto problem = RandomProblem(Spec(), dtype(), {20, 0, 70}, 16);
  std::vector<int> untouched = {problem.slots[1]};  // its sequence is empty
  for (int slot = 0; slot < problem.num_slots; ++slot) {
    if (std::ranges::count(problem.slots, slot) == 0) untouched.push_back(slot);
  }
  ASSERT_EQ(untouched.size(), 3u);
  const auto prefill = RunPrefill(device(), problem);
  const auto step = RunStep(device(), Part(problem, {0, 2}, 0, 1, problem.state));
  for (int slot : untouched) {
    for (const auto* result : {&prefill, &step}) {
      ExpectSame(StateOf(problem, result->state, slot), StateOf(problem, problem.state, slot),
                 "state");
    }
  }
  EXPECT_NE(StateOf(problem, prefill.state, problem.slots[0]),
            StateOf(problem, problem.state, problem.slots[0]));
}

TEST_P(RecurrenceTest, EmptyCalls) {
  for (const std::vector<int>& lengths : {std::vector<int>{}, std::vector<int>{0, 0}}) {
    const auto problem = RandomProblem(Spec(), dtype(), lengths, 17);
    const auto result = RunPrefill(device(), problem);
    EXPECT_TRUE(result.out.empty());
    ExpectSame(result.state, problem.state, "state");
  }
}

TEST_P(RecurrenceTest, ThreadsDoNotChangeResults) {
  if (device().is_cuda()) GTEST_SKIP() << "about the CPU's threads";
  const auto problem = RandomProblem(Spec(64, 272, 1), dtype(), {100, 3}, 18);
  const auto decode = Part(problem, Everyone(problem), 0, 1, problem.state);
  const int threads = cpu::MaxThreads();
  cpu::SetMaxThreads(1);
  const auto wanted = RunPrefill(device(), problem);
  const auto wanted_step = RunStep(device(), decode);
  for (int count : {2, 3, 7, 16}) {
    cpu::SetMaxThreads(count);
    const auto prefill = RunPrefill(device(), problem);
    ExpectSame(prefill.out, wanted.out, "out");
    ExpectSame(prefill.state, wanted.state, "state");
    const auto step = RunStep(device(), decode);
    ExpectSame(step.out, wanted_step.out, "step out");
    ExpectSame(step.state, wanted_step.state, "step state");
  }
  cpu::SetMaxThreads(threads);
}

// The cells of one update rule contain each other.
class RecurrenceCellsTest : public ::testing::TestWithParam<Setting> {
 protected:
  // `special` is `general` with fewer decays; both must give the same.
  void ExpectEqual(const RecurrenceProblem& general, const RecurrenceProblem& special) {
    RecurrenceBounds twice = BoundsFor(GetParam().device, GetParam().dtype);
    twice.out *= 2, twice.state *= 2;
    ExpectClose(general, RunPrefill(GetParam().device, general),
                RunPrefill(GetParam().device, special), twice);
    ExpectClose(general, RunSteps(GetParam().device, general), RunSteps(GetParam().device, special),
                twice);
  }
  RecurrenceProblem Problem(Decay decay) const {
    const Cell cell{decay, GetParam().cell.update};
    return RandomProblem(SpecOf(cell, 32, 64, 2), GetParam().dtype, {70, 1, 33}, 19);
  }
};

std::vector<Setting> SettingsPerUpdate() {
  std::vector<Setting> settings = AllSettings();
  std::erase_if(settings, [](const Setting& s) { return s.cell.decay != Decay::kNone; });
  return settings;
}

INSTANTIATE_TEST_SUITE_P(All, RecurrenceCellsTest, ::testing::ValuesIn(SettingsPerUpdate()),
                         [](const ::testing::TestParamInfo<Setting>& info) {
                           const Setting& setting = info.param;
                           const bool delta = setting.cell.update == Update::kDelta;
                           return std::string(setting.device.is_cuda() ? "Cuda" : "Cpu") +
                                  (delta ? "Delta" : "Additive") + "_" + fla::NameOf(setting.dtype);
                         });

TEST_P(RecurrenceCellsTest, EqualChannelsAreATokenDecay) {
  const auto special = Problem(Decay::kPerToken);
  auto general = special;
  general.spec.decay = Decay::kPerChannel;
  general.log_decay.clear();
  for (float decay : special.log_decay) {
    general.log_decay.insert(general.log_decay.end(), general.spec.key_dim, decay);
  }
  ExpectEqual(general, special);
}

TEST_P(RecurrenceCellsTest, EqualTokensAreAHeadDecay) {
  const auto special = Problem(Decay::kPerHead);
  auto general = special;
  general.spec.decay = Decay::kPerToken;
  general.log_decay.clear();
  for (int t = 0; t < general.num_tokens(); ++t) {
    general.log_decay.insert(general.log_decay.end(), special.log_decay.begin(),
                             special.log_decay.end());
  }
  ExpectEqual(general, special);
}

TEST_P(RecurrenceCellsTest, ZeroDecaysAreNone) {
  const auto special = Problem(Decay::kNone);
  for (Decay decay : {Decay::kPerHead, Decay::kPerToken, Decay::kPerChannel}) {
    auto general = special;
    general.spec.decay = decay;
    general.log_decay.assign(general.num_tokens() * general.spec.heads * general.spec.key_dim,
                             0.0f);
    ExpectEqual(general, special);
  }
}

TEST(RecurrenceContractTest, CpuRefusesBf16States) {
  RecurrenceArgs args;
  args.spec = SpecOf({Decay::kNone, Update::kAdditive}, 16, 16, 1);
  args.state_dtype = DType::kBF16;
  args.q = args.k = args.v = args.out = Matrix{nullptr, DType::kF32, 0, 16, 16};
  Stream stream(Device{});
  EXPECT_THROW(RecurrentStep(stream, args), std::invalid_argument);
  EXPECT_THROW(ChunkedPrefill(stream, args), std::invalid_argument);
}

using RecurrenceDeathTest = ::testing::Test;

TEST(RecurrenceDeathTest, BrokenContractsAbortWithAMessage) {
  Stream stream(Device{});
  std::vector<float> values(64), state(256);
  const int slots[] = {0};
  const int cu_seqlens[] = {0, 2};
  RecurrenceArgs good;
  good.spec = SpecOf({Decay::kNone, Update::kAdditive}, 16, 16, 1);
  good.q = good.k = good.v = good.out = Matrix{values.data(), DType::kF32, 2, 16, 32};
  good.state = state.data();
  good.slots = slots;
  good.cu_seqlens = good.cu_seqlens_host = cu_seqlens;
  good.num_sequences = 1;
  ChunkedPrefill(stream, good);

  RecurrenceArgs bad = good;
  bad.q.cols = 8;
  EXPECT_DEATH(ChunkedPrefill(stream, bad), "Fits.args.q");
  bad = good;
  bad.k.dtype = DType::kBF16;
  EXPECT_DEATH(ChunkedPrefill(stream, bad), "Fits.args.k");
  bad = good;
  bad.spec.update = Update::kDelta;
  EXPECT_DEATH(ChunkedPrefill(stream, bad), "beta");
  bad = good;
  bad.spec.decay = Decay::kPerToken;
  EXPECT_DEATH(ChunkedPrefill(stream, bad), "log_decay");
  bad = good;
  bad.spec.heads = 3, bad.spec.q_heads = 2;
  EXPECT_DEATH(ChunkedPrefill(stream, bad), "spec.q_heads");
  const int decreasing[] = {2, 0};
  bad = good;
  bad.cu_seqlens = bad.cu_seqlens_host = decreasing;
  EXPECT_DEATH(ChunkedPrefill(stream, bad), "first.n. <= first.n . 1.");
  const int too_long[] = {0, 3};
  bad.cu_seqlens = bad.cu_seqlens_host = too_long;
  EXPECT_DEATH(ChunkedPrefill(stream, bad), "<= args.out.rows");
  EXPECT_DEATH(RecurrentStep(stream, good), "out.rows == args.num_sequences");
  bad = good;
  bad.projections.q_norm = HeadNorm::kL2;
  EXPECT_DEATH(ChunkedPrefill(stream, bad), "TakesProjections");
}

}  // namespace
}  // namespace fla::testing
