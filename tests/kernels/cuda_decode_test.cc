// DecodeLinear of a given input (kPlain) on a GPU against its definition, over row counts and
// shapes that fill no tile.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/decode.h"
#include "kernels/device.h"
#include "tests/kernels/op_arena.h"
#include "tests/testing/compare.h"

namespace fla {
namespace {

using Output = DecodeLinearArgs::Output;

constexpr int64_t kMostRows = 64;

struct Shape {
  int64_t in, out;  // kSwiGlu takes `out` down to a multiple of 8
};

float Rounded(float x) { return static_cast<float>(BFloat16(x)); }

Input FirstRows(const Input& x, int64_t rows) {
  return {rows, x.cols, {x.values.begin(), x.values.begin() + rows * x.cols}};
}

// What DecodeLinear makes of ones.
std::vector<float> ByDefinition(const Input& x, const Input& weight, Output output) {
  const auto product = [&](int64_t token, int64_t row) {
    double sum = 0;
    for (int64_t i = 0; i < x.cols; ++i) {
      sum += Rounded(x.values[token * x.cols + i]) * Rounded(weight.values[row * x.cols + i]);
    }
    return sum;
  };
  const int64_t cols = output == Output::kSwiGlu ? weight.rows / 2 : weight.rows;
  std::vector<float> wanted;
  for (int64_t token = 0; token < x.rows; ++token) {
    for (int64_t row = 0; row < cols; ++row) {
      double value = product(token, row);
      if (output == Output::kAdd) value += 1;
      if (output == Output::kSwiGlu) {
        value *= product(token, cols + row) / (1 + std::exp(-value));
      }
      wanted.push_back(static_cast<float>(value));
    }
  }
  return wanted;
}

class CudaDecode : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
    Stream stream(ParseDevice("cuda"));
    if (MaxDecodeLinearRows(stream) < kMostRows) GTEST_SKIP() << "no such kernel for this GPU";
  }

  // `gap`: between the rows of all matrices.
  static std::vector<float> Run(const Input& x, const Input& weight, Output output, DType out_dtype,
                                int64_t gap) {
    Arena arena(ParseDevice("cuda"));
    const int64_t cols = output == Output::kSwiGlu ? weight.rows / 2 : weight.rows;
    const Input ones{x.rows, cols, std::vector<float>(x.rows * cols, 1.0f)};
    DecodeLinearArgs args;
    args.x = arena.Put(x, DType::kBF16, gap);
    args.weight = arena.Put(weight, DType::kBF16, gap);
    args.output = output;
    args.out = arena.Put(ones, out_dtype, gap);
    EXPECT_TRUE(DecodeLinear(arena.stream(), args));
    const std::vector<float> all = arena.Get(args.out);
    std::vector<float> values;
    for (int64_t row = 0; row < x.rows; ++row) {
      const auto begin = all.begin() + row * args.out.stride;
      values.insert(values.end(), begin, begin + cols);
      EXPECT_TRUE(std::all_of(begin + cols, begin + args.out.stride,
                              [](float value) { return std::isnan(value); }));
    }
    return values;
  }

  Input Weight(Output output) {
    const auto [in, out] = GetParam();
    const int64_t rows = output == Output::kSwiGlu ? 2 * (out / 8 * 8) : out;
    return Random(random_, rows, in, 1.0f / std::sqrt(static_cast<float>(in)));
  }

  std::mt19937 random_{11};
};

TEST_P(CudaDecode, MatchesDefinition) {
  for (const Output output : {Output::kStore, Output::kAdd, Output::kSwiGlu}) {
    const Input weight = Weight(output), x = Random(random_, kMostRows, GetParam().in);
    const auto wanted = ByDefinition(x, weight, output);
    for (const int64_t rows : {int64_t{5}, int64_t{8}, int64_t{13}, int64_t{32}, kMostRows}) {
      const size_t count = wanted.size() / kMostRows * rows;
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        const bool only_f32 = output == Output::kAdd, only_bf16 = output == Output::kSwiGlu;
        if (dtype == DType::kBF16 ? only_f32 : only_bf16) continue;
        for (const int64_t gap : {0, 8, 16}) {
          const auto actual = Run(FirstRows(x, rows), weight, output, dtype, gap);
          EXPECT_LE((testing::RelativeError<float, float>(actual, std::span(wanted).first(count))),
                    dtype == DType::kF32 ? 1e-5 : 3e-3)
              << "output " << static_cast<int>(output) << " rows " << rows << " gap " << gap;
        }
      }
    }
  }
}

// A row's bits depend neither on how many rows there are nor on the others.
TEST_P(CudaDecode, RowsAreIndependent) {
  const Input weight = Weight(Output::kStore), x = Random(random_, kMostRows, GetParam().in);
  const auto wanted = Run(x, weight, Output::kStore, DType::kF32, 0);
  for (const int64_t rows : {5, 9, 17, 33}) {
    const auto actual = Run(FirstRows(x, rows), weight, Output::kStore, DType::kF32, 0);
    EXPECT_TRUE(std::equal(actual.begin(), actual.end(), wanted.begin())) << rows << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaDecode,
                         ::testing::Values(Shape{64, 8}, Shape{72, 77}, Shape{200, 1000},
                                           Shape{1984, 260}, Shape{3072, 2048}, Shape{128, 9228}),
                         [](const ::testing::TestParamInfo<Shape>& shape) {
                           return "In" + std::to_string(shape.param.in) + "Out" +
                                  std::to_string(shape.param.out);
                         });

}  // namespace
}  // namespace fla
