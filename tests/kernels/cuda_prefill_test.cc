// A prompt's projections with the op behind them on a GPU against their definitions, over shapes
// that fill no tile.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/prefill.h"
#include "kernels/device.h"
#include "kernels/prefill.h"
#include "tests/kernels/host_products.h"
#include "tests/kernels/op_arena.h"
#include "tests/testing/compare.h"

namespace fla {
namespace {

constexpr double kTolerance = 4e-3;  // of results in bf16

struct Shape {
  int64_t tokens, in, out;
};

class CudaPrefill : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }

  // The matrix's values; its gaps are as they were.
  static std::vector<float> Values(Arena& arena, const Matrix& matrix) {
    const std::vector<float> all = arena.Get(matrix);
    std::vector<float> values;
    for (int64_t row = 0; row < matrix.rows; ++row) {
      const auto begin = all.begin() + row * matrix.stride;
      values.insert(values.end(), begin, begin + matrix.cols);
      EXPECT_TRUE(std::all_of(begin + matrix.cols, begin + matrix.stride,
                              [](float value) { return std::isnan(value); }));
    }
    return values;
  }

  Input X() { return Random(random_, GetParam().tokens, GetParam().in); }
  Input Weight(int64_t rows) {
    const int64_t in = GetParam().in;
    return Random(random_, rows, in, 1.0f / std::sqrt(static_cast<float>(in)));
  }

  std::mt19937 random_{12};
};

TEST_P(CudaPrefill, SwiGlu) {
  const auto [tokens, in, out] = GetParam();
  const Input x = X(), weight = Weight(2 * out);
  const std::vector<float> wanted = GatedUps(Product(Rounded(x), Rounded(weight))).values;
  for (const int64_t gap : {0, 8}) {
    Arena arena(ParseDevice("cuda"));
    // Memory behind the last row, too.
    const Matrix all = arena.Poisoned(tokens + 1, out, DType::kBF16, gap);
    const Matrix rows = all.Rows(0, tokens);
    if (!LinearSwiGlu(arena.stream(), arena.Put(x, DType::kBF16, gap),
                      arena.Put(weight, DType::kBF16, gap), rows)) {
      GTEST_SKIP() << "this GPU has no such kernel for this shape";
    }
    EXPECT_LE((testing::RelativeError<float, float>(Values(arena, rows), wanted)), kTolerance);
    for (const float value : arena.Get(all.Rows(tokens, 1))) EXPECT_TRUE(std::isnan(value));
  }
}

TEST_P(CudaPrefill, LateColumns) {
  const auto [tokens, in, out] = GetParam();
  const Input x = X(), weight = Weight(out);
  const std::vector<float> wanted = Product(Rounded(x), Rounded(weight)).values;
  for (const int64_t late : {out / 16 * 8, out - 8}) {
    Arena arena(ParseDevice("cuda"));
    constexpr int64_t kGap = 8;
    const Matrix all = arena.Poisoned(tokens + 1, out, DType::kBF16, kGap);
    const Matrix rows = all.Rows(0, tokens);
    if (!LateLinear(arena.stream(), arena.Put(x, DType::kBF16, kGap),
                    arena.Put(weight, DType::kBF16, kGap), late, rows)) {
      GTEST_SKIP() << "this GPU has no such kernel for this shape";
    }
    AwaitLate(arena.stream());
    EXPECT_LE((testing::RelativeError<float, float>(Values(arena, rows), wanted)), kTolerance);
    for (const float value : arena.Get(all.Rows(tokens, 1))) EXPECT_TRUE(std::isnan(value));
  }
}

// They fill an H200's multiprocessors, or have a tile for all tokens.
INSTANTIATE_TEST_SUITE_P(All, CudaPrefill,
                         ::testing::Values(Shape{2048, 64, 2048}, Shape{2000, 200, 2000},
                                           Shape{1030, 72, 3504}, Shape{1500, 320, 2560},
                                           Shape{3969, 64, 1000}, Shape{16895, 64, 248},
                                           Shape{2100, 72, 896}, Shape{2312, 328, 1664},
                                           Shape{128, 2048, 1000}, Shape{65, 72, 248},
                                           Shape{100, 200, 2000}, Shape{127, 1088, 40}),
                         [](const ::testing::TestParamInfo<Shape>& shape) {
                           return "T" + std::to_string(shape.param.tokens) + "In" +
                                  std::to_string(shape.param.in) + "Out" +
                                  std::to_string(shape.param.out);
                         });

// Of an H200's 132 multiprocessors.
TEST(PrefillPlan, FillsRounds) {
  EXPECT_TRUE(cuda::FillsRounds(8192, 11264, 132));
  EXPECT_TRUE(cuda::FillsRounds(2048, 2048, 132));
  EXPECT_FALSE(cuda::FillsRounds(2200, 2048, 132));  // 144 tiles
  EXPECT_FALSE(cuda::FillsRounds(1024, 2048, 132));
  EXPECT_FALSE(cuda::FillsRounds(64, 11264, 132));
  EXPECT_FALSE(cuda::FillsRounds(0, 11264, 132));
}

}  // namespace
}  // namespace fla
