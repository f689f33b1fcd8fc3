// The projections between two recurrences as one kernel against their definition, and its plan.
#include "kernels/cuda/between_recurrences.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/prefill.h"
#include "tests/kernels/host_products.h"
#include "tests/kernels/op_arena.h"
#include "tests/testing/compare.h"

namespace fla {
namespace {

constexpr double kTolerance = 4e-3;  // of results in bf16
constexpr float kEps = 1e-5f;

struct Shape {
  int64_t tokens, hidden, value, inner, next;
};

Input Weight(std::mt19937& random, int64_t rows, int64_t cols) {
  return Rounded(Random(random, rows, cols, 1.0f / std::sqrt(static_cast<float>(cols))));
}

Input Normed(const Input& x, const Input& weight) {
  Input normed = x;
  for (int64_t token = 0; token < x.rows; ++token) {
    const auto row = std::span(normed.values).subspan(token * x.cols, x.cols);
    double squares = 0;
    for (const float value : row) squares += double{value} * value;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.cols) + kEps);
    for (int64_t i = 0; i < x.cols; ++i) row[i] *= static_cast<float>(scale) * weight.values[i];
  }
  return Rounded(std::move(normed));
}

void AddTo(Input& sum, const Input& x) {
  std::transform(x.values.begin(), x.values.end(), sum.values.begin(), sum.values.begin(),
                 std::plus<>());
}

class CudaBetweenRecurrences : public ::testing::TestWithParam<Shape> {};

TEST_P(CudaBetweenRecurrences, AsItsOps) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  const auto [tokens, hidden, value, inner, next_rows] = GetParam();
  std::mt19937 random(7);
  const Input x = Rounded(Random(random, tokens, value));
  const Input output = Weight(random, hidden, value), gate_up = Weight(random, 2 * inner, hidden),
              down = Weight(random, hidden, inner), next = Weight(random, next_rows, hidden),
              norm = Random(random, 1, hidden), next_norm = Random(random, 1, hidden),
              before = Random(random, tokens, hidden);
  Input residual = before;
  AddTo(residual, Product(x, output));
  const Input wide = Rounded(GatedUps(Product(Normed(residual, norm), gate_up)));
  AddTo(residual, Product(wide, down));
  const Input wanted = Product(Normed(residual, next_norm), next);

  for (const int64_t gap : {0, 8}) {
    Arena arena(ParseDevice("cuda"));
    // Memory behind the last row, too.
    const Matrix all = arena.Poisoned(tokens + 1, next_rows, DType::kBF16, gap);
    BetweenRecurrencesArgs args = {
        .x = arena.Put(x, DType::kBF16, gap),
        .output = arena.Put(output, DType::kBF16, gap),
        .norm = arena.Put(norm.values),
        .eps = kEps,
        .gate_up = arena.Put(gate_up, DType::kBF16, gap),
        .down = arena.Put(down, DType::kBF16, gap),
        .next_norm = arena.Put(next_norm.values),
        .next = arena.Put(next, DType::kBF16, gap),
        .normed = arena.Poisoned(tokens, hidden, DType::kBF16, gap),
        .inner = arena.Poisoned(tokens, inner, DType::kBF16, gap),
        .out = all.Rows(0, tokens),
    };
    std::vector<float> first;
    for (int round = 0; round < 3; ++round) {  // each leaves what the next one counts with
      args.residual = arena.Put(before, DType::kF32, 0);
      if (!TakesBetweenRecurrences(arena.stream(), args)) {
        GTEST_SKIP() << "this GPU has no such kernel for this shape";
      }
      BetweenRecurrences(arena.stream(), args);
      const std::vector<float> sums = arena.Get(args.residual);
      EXPECT_LE((testing::RelativeError<float, float>(sums, residual.values)), kTolerance);
      std::vector<float> rows;
      const std::vector<float> got = arena.Get(args.out);
      for (int64_t token = 0; token < tokens; ++token) {
        const auto begin = got.begin() + token * args.out.stride;
        rows.insert(rows.end(), begin, begin + next_rows);
        EXPECT_TRUE(std::all_of(begin + next_rows, begin + args.out.stride,
                                [](float x) { return std::isnan(x); }));
      }
      EXPECT_LE((testing::RelativeError<float, float>(rows, wanted.values)), kTolerance);
      for (const float x : arena.Get(all.Rows(tokens, 1))) EXPECT_TRUE(std::isnan(x));
      if (round == 0) first = rows;
      EXPECT_EQ(rows, first);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, CudaBetweenRecurrences,
    ::testing::Values(Shape{65, 1536, 328, 4000, 5208}, Shape{40, 1544, 360, 4104, 8008},
                      Shape{128, 2048, 3072, 5632, 9232}, Shape{100, 1544, 360, 4104, 8008}),
    [](const ::testing::TestParamInfo<Shape>& shape) {
      return "T" + std::to_string(shape.param.tokens) + "D" + std::to_string(shape.param.hidden) +
             "V" + std::to_string(shape.param.value) + "I" + std::to_string(shape.param.inner) +
             "P" + std::to_string(shape.param.next);
    });

// Of two streams, whose kernels both want nearly all multiprocessors: neither waits for ever for
// blocks that the other keeps out.
TEST(BetweenRecurrences, OfTwoStreamsDoNotKeepEachOtherOut) {
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  constexpr int64_t kTokens = 128, kHidden = 1536, kInner = 4096, kNext = 6160;
  std::mt19937 random(3);
  const Input x = Random(random, kTokens, kHidden), output = Weight(random, kHidden, kHidden),
              gate_up = Weight(random, 2 * kInner, kHidden), down = Weight(random, kHidden, kInner),
              next = Weight(random, kNext, kHidden), norm = Random(random, 1, kHidden);
  Arena arenas[] = {Arena(ParseDevice("cuda")), Arena(ParseDevice("cuda"))};
  BetweenRecurrencesArgs args[2];
  for (int i = 0; i < 2; ++i) {
    Arena& arena = arenas[i];
    args[i] = {.x = arena.Put(x, DType::kBF16, 0),
               .output = arena.Put(output, DType::kBF16, 0),
               .residual = arena.Put(x, DType::kF32, 0),
               .norm = arena.Put(norm.values),
               .eps = kEps,
               .gate_up = arena.Put(gate_up, DType::kBF16, 0),
               .down = arena.Put(down, DType::kBF16, 0),
               .next_norm = arena.Put(norm.values),
               .next = arena.Put(next, DType::kBF16, 0),
               .normed = arena.Poisoned(kTokens, kHidden, DType::kBF16, 0),
               .inner = arena.Poisoned(kTokens, kInner, DType::kBF16, 0),
               .out = arena.Poisoned(kTokens, kNext, DType::kBF16, 0)};
    if (!TakesBetweenRecurrences(arena.stream(), args[i])) {
      GTEST_SKIP() << "this GPU has no such kernel for this shape";
    }
  }
  for (int round = 0; round < 500; ++round) {
    for (int i = 0; i < 2; ++i) BetweenRecurrences(arenas[i].stream(), args[i]);
  }
  EXPECT_EQ(arenas[0].Get(args[0].out), arenas[1].Get(args[1].out));
}

// gated_deltanet-1.3B and gla-1.3B on an H200.
TEST(SeamPlan, Of13B) {
  EXPECT_EQ(cuda::NextTileRows(9228, 30), 80);
  EXPECT_EQ(cuda::NextTileRows(6160, 30), 64);
  const cuda::SeamPlan plan = cuda::PlanSeam(2048, 3072, 11264, 9228, 80, 30);
  EXPECT_TRUE(plan.pays);
  EXPECT_EQ(plan.parts, 5);
  EXPECT_EQ(plan.clusters, 30);
}

TEST(SeamPlan, PaysWhereTilesFillRounds) {
  EXPECT_FALSE(cuda::PlanSeam(512, 1024, 11264, 9228, 80, 30).pays);    // half of a round
  EXPECT_FALSE(cuda::PlanSeam(2048, 3072, 13000, 9228, 80, 30).pays);   // a little more than one
  EXPECT_FALSE(cuda::PlanSeam(2048, 3072, 11264, 9228, 80, 0).pays);    // no clusters
  EXPECT_EQ(cuda::PlanSeam(2048, 3072, 11264, 9228, 80, 29).parts, 4);  // of another GPU
  EXPECT_EQ(cuda::PlanSeam(2048, 72, 11264, 9228, 80, 30).parts, 1);    // too few inputs to part
}

}  // namespace
}  // namespace fla
