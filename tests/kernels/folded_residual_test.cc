// The residual stream that is kept as its norm, on a GPU, against sums in double.
#include "kernels/folded_residual.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/device.h"
#include "tests/kernels/op_arena.h"

namespace fla {
namespace {

constexpr float kEps = 1e-6f;
constexpr double kPlace = 1.0 / (1 << 15);  // of an element, as it is kept

struct Shape {
  int64_t rows, columns;
};

class Folded : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }

  // Of either sign, and of many sizes.
  std::vector<float> Weight() {
    std::normal_distribution<float> logarithm(0.0f, 2.0f);
    std::bernoulli_distribution negative(0.3);
    std::vector<float> weight(GetParam().columns);
    for (float& w : weight) w = std::exp2(logarithm(random_)) * (negative(random_) ? -1 : 1);
    return weight;
  }

  FoldedResidual Make(Arena& arena, const float* weight) {
    const auto [rows, columns] = GetParam();
    return {.normed = arena.Poisoned(rows, columns, DType::kBF16, 0),
            .rest = arena.Put(std::vector<int8_t>(rows * columns, 77)),
            .scales = arena.Put(std::vector<float>(rows, std::nanf(""))),
            .weight = weight};
  }

  std::vector<float> Unfolded(Arena& arena, const FoldedResidual& folded) {
    const auto [rows, columns] = GetParam();
    std::vector<int> picked(rows);
    for (int64_t i = 0; i < rows; ++i) picked[i] = static_cast<int>(rows - 1 - i);
    const Matrix out = arena.Poisoned(rows, columns, DType::kF32, 0);
    UnfoldRows(arena.stream(), folded, arena.Put(picked), out);
    const std::vector<float> reversed = arena.Get(out);
    std::vector<float> values;
    for (int64_t i = rows - 1; i >= 0; --i) {
      values.insert(values.end(), reversed.begin() + i * columns,
                    reversed.begin() + (i + 1) * columns);
    }
    return values;
  }

  // The norm of a row of x: rounded to bf16, so half a place of eight bits.
  void ExpectNorm(const std::vector<double>& x, const std::vector<float>& weight,
                  const std::vector<float>& normed) {
    const auto [rows, columns] = GetParam();
    for (int64_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (int64_t c = 0; c < columns; ++c) sum += std::pow(x[row * columns + c], 2);
      const double scale = 1 / std::sqrt(sum / static_cast<double>(columns) + kEps);
      for (int64_t c = 0; c < columns; ++c) {
        const double wanted = x[row * columns + c] * scale * weight[c];
        ASSERT_NEAR(normed[row * columns + c], wanted, 0.004 * std::abs(wanted) + 1e-4)
            << row << ", " << c;
      }
    }
  }

  std::mt19937 random_{5};
};

TEST_P(Folded, IsWhatWasFolded) {
  const auto [rows, columns] = GetParam();
  Arena arena(ParseDevice("auto"));
  const Input x = Random(random_, rows, columns, 3.0f);
  const std::vector<float> weight = Weight();
  const FoldedResidual folded = Make(arena, arena.Put(weight));
  FoldResidual(arena.stream(), arena.Put(x, DType::kF32, 8), kEps, folded);
  ExpectNorm({x.values.begin(), x.values.end()}, weight, arena.Get(folded.normed));
  const std::vector<float> back = Unfolded(arena, folded);
  for (size_t i = 0; i < back.size(); ++i) {
    ASSERT_NEAR(back[i], x.values[i], kPlace * std::abs(x.values[i])) << i;
  }
}

TEST_P(Folded, IsTheSumOfWhatWasAdded) {
  const auto [rows, columns] = GetParam();
  constexpr int kAdded = 48;  // as in 24 layers
  Arena arena(ParseDevice("auto"));
  const Input x = Random(random_, rows, columns);
  std::vector<double> sum(x.values.begin(), x.values.end());
  FoldedResidual folded = Make(arena, arena.Put(Weight()));
  FoldResidual(arena.stream(), arena.Put(x, DType::kF32, 0), kEps, folded);
  std::vector<float> weight;
  for (int i = 0; i < kAdded; ++i) {
    const Input delta = Random(random_, rows, columns);
    weight = Weight();
    const float* const on_device = arena.Put(weight);
    AddToFolded(arena.stream(), folded, arena.Put(delta, DType::kBF16, 8), on_device, kEps);
    EXPECT_EQ(folded.weight, on_device);
    for (size_t j = 0; j < sum.size(); ++j) {
      sum[j] += static_cast<float>(BFloat16(delta.values[j]));
    }
  }
  // Each sum is kept to kPlace of itself, and none is much above 7.
  std::vector<double> kept;
  double error = 0;
  const std::vector<float> back = Unfolded(arena, folded);
  for (size_t i = 0; i < back.size(); ++i) {
    ASSERT_NEAR(back[i], sum[i], kPlace * 200) << i;
    error += std::pow(back[i] - sum[i], 2);
  }
  EXPECT_LT(std::sqrt(error / static_cast<double>(sum.size())), kPlace * 20);
  ExpectNorm({back.begin(), back.end()}, weight, arena.Get(folded.normed));
}

TEST_P(Folded, KeepsRowsApart) {
  const auto [rows, columns] = GetParam();
  Arena arena(ParseDevice("auto"));
  // Rows of zeros, of what is no number, infinite, huge and tiny ones, in turn.
  Input x{rows, columns, std::vector<float>(rows * columns, 0.0f)};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < columns; ++c) {
      const float one = c % 2 == 0 ? 1.0f : -1.5f;
      const float kinds[] = {0.0f, one, one * 1e15f, one * 1e-4f, one};
      x.values[row * columns + c] = kinds[row % 5];
    }
    if (row % 5 == 4) x.values[row * columns + 3] = std::nanf("");
    if (row % 10 == 9) x.values[row * columns + 3] = std::numeric_limits<float>::infinity();
  }
  const Input zeros{rows, columns, std::vector<float>(rows * columns, 0.0f)};
  FoldedResidual folded = Make(arena, arena.Put(Weight()));
  FoldResidual(arena.stream(), arena.Put(x, DType::kF32, 0), kEps, folded);
  AddToFolded(arena.stream(), folded, arena.Put(zeros, DType::kBF16, 0), arena.Put(Weight()), kEps);
  const std::vector<float> back = Unfolded(arena, folded), normed = arena.Get(folded.normed);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t i = row * columns + c;
      if (row % 5 == 4) {  // a layer that reads it must not take it for numbers
        ASSERT_FALSE(std::isfinite(back[i]) && std::isfinite(normed[i]) && c == 3) << row;
      } else {
        ASSERT_NEAR(back[i], x.values[i], 2 * kPlace * std::abs(x.values[i])) << row << ", " << c;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Folded,
                         ::testing::Values(Shape{1, 8}, Shape{5, 64}, Shape{700, 1000},
                                           Shape{33, 2048}, Shape{1500, 264}, Shape{12, 4096}),
                         [](const auto& info) {
                           return "T" + std::to_string(info.param.rows) + "D" +
                                  std::to_string(info.param.columns);
                         });

TEST(FoldsResiduals, OfSomeWidths) {
  Stream cpu(ParseDevice("cpu"));
  EXPECT_FALSE(FoldsResiduals(cpu, 2048));
  if (!HasGpu()) GTEST_SKIP() << "no GPU";
  Stream gpu(ParseDevice("auto"));
  EXPECT_TRUE(FoldsResiduals(gpu, 2048));
  EXPECT_FALSE(FoldsResiduals(gpu, 2047));
  EXPECT_FALSE(FoldsResiduals(gpu, kMaxFoldedColumns + 8));
}

}  // namespace
}  // namespace fla
