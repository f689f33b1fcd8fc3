// Products with eight-bit weights on a GPU against their definition: by the bytes, for few rows,
// and by the weight widened to bf16, for very few and for many.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/decode.h"
#include "kernels/device.h"
#include "kernels/fp8.h"
#include "kernels/linear_weight.h"
#include "kernels/ops.h"
#include "kernels/prefill.h"
#include "tests/kernels/op_arena.h"
#include "tests/testing/compare.h"

namespace fla {
namespace {

using Output = DecodeLinearArgs::Output;

constexpr double kTolerance = 1e-4;  // of sums in f32
// Of products of e4m3, which tensor cores cut to 13 bits of the largest of 32 before they add them
// up. On an H200, of the largest of all results here, 1.6e-3.
constexpr double kFp8Tolerance = 3e-3;

struct Shape {
  int64_t in, out;  // `out` a multiple of 8
};

std::span<const float> RowOf(const Input& matrix, int64_t row) {
  return std::span(matrix.values).subspan(row * matrix.cols, matrix.cols);
}

// Rows of very different sizes, one of zeros; numbers of all sizes within a row, so that each
// exponent of e4m3 occurs.
Input RandomWeight(std::mt19937& random, int64_t rows, int64_t cols) {
  Input weight = Random(random, rows, cols);
  for (int64_t row = 0; row < rows; ++row) {
    const auto size = static_cast<float>(std::pow(2.0, static_cast<int>(random() % 12) - 8));
    for (int64_t i = 0; i < cols; ++i) {
      const auto below = static_cast<float>(std::pow(2.0, -static_cast<int>(random() % 20)));
      weight.values[row * cols + i] *= row == 3 ? 0.0f : size * (random() % 2 == 0 ? 1 : below);
    }
  }
  return weight;
}

Matrix PutFp8(Arena& arena, const Input& weight) {
  std::vector<uint8_t> bytes(weight.values.size());
  std::vector<float> scales;
  for (int64_t row = 0; row < weight.rows; ++row) {
    scales.push_back(Fp8Scale(RowOf(weight, row)));
    PackFp8(RowOf(weight, row), scales.back(), bytes.data() + row * weight.cols);
  }
  Matrix matrix = {arena.Put(bytes), DType::kF8E4M3, weight.rows, weight.cols, weight.cols};
  matrix.scales = arena.Put(scales);
  return matrix;
}

struct Products {
  std::vector<double> values;  // x weight^T of the numbers that the device has
  std::vector<double> sizes;   // of the weight's rows: deviations of a column of them
};

Products ProductsOf(const Input& x, const Input& weight) {
  Products products;
  std::vector<float> rows(weight.values.size());
  for (int64_t row = 0; row < weight.rows; ++row) {
    std::vector<BFloat16> rounded(weight.cols);
    RoundToFp8(RowOf(weight, row), Fp8Scale(RowOf(weight, row)), rounded.data());
    double squares = 0;
    for (int64_t i = 0; i < weight.cols; ++i) {
      rows[row * weight.cols + i] = static_cast<float>(rounded[i]);
      squares += std::pow(static_cast<double>(rows[row * weight.cols + i]), 2);
    }
    products.sizes.push_back(std::sqrt(squares));
  }
  for (int64_t token = 0; token < x.rows; ++token) {
    std::vector<float> of_token;
    for (const float value : RowOf(x, token)) {
      of_token.push_back(static_cast<float>(BFloat16(value)));
    }
    for (int64_t row = 0; row < weight.rows; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < x.cols; ++i) sum += of_token[i] * rows[row * x.cols + i];
      products.values.push_back(sum);
    }
  }
  return products;
}

// The largest difference, in terms of its column's size and its own.
double WorstError(const std::vector<float>& actual, const std::vector<float>& wanted,
                  const std::vector<double>& sizes) {
  double worst = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double error = std::abs(actual[i] - wanted[i]), size = sizes[i % sizes.size()];
    if (std::isnan(error)) return error;
    if (error > 0) worst = std::max(worst, error / (size + std::abs(wanted[i])));
  }
  return worst;
}

// Of gates and ups: the results and the sizes of columns.
struct SwiGlus {
  std::vector<float> values;
  std::vector<double> sizes;
};

SwiGlus SwiGluOf(const Products& products) {
  const size_t pairs = products.sizes.size(), cols = pairs / 2;
  SwiGlus wanted;
  for (size_t begin = 0; begin < products.values.size(); begin += pairs) {
    for (size_t i = begin; i < begin + cols; ++i) {
      const double gate = products.values[i];
      wanted.values.push_back(
          static_cast<float>(gate / (1 + std::exp(-gate)) * products.values[i + cols]));
    }
  }
  for (size_t i = 0; i < cols; ++i) {
    wanted.sizes.push_back(products.sizes[i] * products.sizes[i + cols]);
  }
  return wanted;
}

class CudaFp8 : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
    if (!HoldsFp8(ParseDevice("cuda"), GetParam().in)) GTEST_SKIP() << "no such kernel here";
  }

  std::mt19937 random_{13};
};

TEST_P(CudaFp8, DecodeLinear) {
  const auto [in, out] = GetParam();
  for (const int64_t tokens : {3, 13, 32, 64}) {
    const Input x = Random(random_, tokens, in);
    for (const Output output : {Output::kStore, Output::kAdd, Output::kSwiGlu}) {
      SCOPED_TRACE(std::to_string(tokens) + " rows, output " +
                   std::to_string(static_cast<int>(output)));
      const bool pairs = output == Output::kSwiGlu;
      const Input weight = RandomWeight(random_, pairs ? 2 * out : out, in);
      const Products products = ProductsOf(x, weight);
      SwiGlus wanted = {{products.values.begin(), products.values.end()}, products.sizes};
      if (pairs) wanted = SwiGluOf(products);
      Arena arena(ParseDevice("cuda"));
      DecodeLinearArgs args;
      args.x = arena.Put(x, DType::kBF16, 8);
      args.weight = PutFp8(arena, weight);
      args.output = output;
      args.out = arena.Put({tokens, out, std::vector<float>(tokens * out, 0.0f)},
                           pairs ? DType::kBF16 : DType::kF32, 0);
      ASSERT_TRUE(DecodeLinear(arena.stream(), args));
      EXPECT_LE(WorstError(arena.Get(args.out), wanted.values, wanted.sizes),
                pairs ? 2e-2 : kFp8Tolerance);
    }
  }
}

// The norms that a layer has before its products, of 1 to 4 rows by one kernel and of more by
// another.
TEST_P(CudaFp8, DecodeLinearOfNorms) {
  const auto [in, out] = GetParam();
  constexpr int kHeadDim = 128;
  for (const int64_t tokens : {1, 4, 5, 33, 64}) {
    const Input x = Random(random_, tokens, in), gate = Random(random_, tokens, in);
    const Input weight = RandomWeight(random_, out, in), norms = Random(random_, 1, in);
    for (const bool heads : {false, true}) {
      SCOPED_TRACE(std::to_string(tokens) + " rows" + (heads ? ", heads" : ""));
      Arena arena(ParseDevice("cuda"));
      DecodeLinearArgs args;
      args.input = heads ? DecodeLinearArgs::Input::kHeadsNormed : DecodeLinearArgs::Input::kNormed;
      args.output = heads ? Output::kAdd : Output::kStore;
      args.x = arena.Put(x, heads ? DType::kBF16 : DType::kF32, 0);
      args.norm_weight = arena.Put(norms.values);
      args.eps = 1e-5f;
      args.weight = PutFp8(arena, weight);
      args.out = arena.Put({tokens, out, std::vector<float>(tokens * out, 0.0f)}, DType::kF32, 0);
      const Matrix normed = arena.Poisoned(tokens, in, DType::kBF16, 0);
      if (heads) {
        args.head_dim = kHeadDim;
        args.gate = arena.Put(gate, DType::kBF16, 0);
        OutputNorm(arena.stream(), {.x = args.x,
                                    .head_dim = kHeadDim,
                                    .weight = args.norm_weight,
                                    .eps = args.eps,
                                    .gate = args.gate,
                                    .out = normed});
      } else {
        RmsNorm(arena.stream(), args.x, args.norm_weight, args.eps, normed);
      }
      ASSERT_TRUE(DecodeLinear(arena.stream(), args));
      const Products products = ProductsOf({tokens, in, arena.Get(normed)}, weight);
      // The norm rounds to bf16, before or after it multiplies.
      EXPECT_LE(WorstError(arena.Get(args.out), {products.values.begin(), products.values.end()},
                           products.sizes),
                2e-2);
    }
  }
}

TEST_P(CudaFp8, Linear) {
  const auto [in, out] = GetParam();
  const Input weight = RandomWeight(random_, out, in);
  const Input bias = Random(random_, 1, out);
  for (const int64_t tokens : {2, 64, 65, 200}) {
    SCOPED_TRACE(std::to_string(tokens) + " rows");
    const Input x = Random(random_, tokens, in);
    const Products products = ProductsOf(x, weight);
    const double tolerance = tokens <= 64 ? kFp8Tolerance : kTolerance;
    for (const bool biased : {false, true}) {
      std::vector<float> wanted(products.values.begin(), products.values.end());
      for (size_t i = 0; biased && i < wanted.size(); ++i) wanted[i] += bias.values[i % out];
      Arena arena(ParseDevice("cuda"));
      const Matrix result = arena.Poisoned(tokens, out, DType::kF32, 0);
      Linear(arena.stream(), arena.Put(x, DType::kBF16, 0), PutFp8(arena, weight),
             biased ? arena.Put(bias.values) : nullptr, result);
      std::vector<double> sizes = products.sizes;
      for (double& size : sizes) size += biased ? 1 : 0;
      EXPECT_LE(WorstError(arena.Get(result), wanted, sizes), tolerance);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaFp8,
                         ::testing::Values(Shape{128, 8}, Shape{384, 1000}, Shape{1024, 264},
                                           Shape{3072, 2048}, Shape{256, 9232}),
                         [](const ::testing::TestParamInfo<Shape>& shape) {
                           return "In" + std::to_string(shape.param.in) + "Out" +
                                  std::to_string(shape.param.out);
                         });

// A shape that fills an H200's multiprocessors, twice: the second's weights take the memory of the
// first's.
TEST(CudaFp8Prefill, LinearSwiGlu) {
  if (!HasGpu() || !HoldsFp8(ParseDevice("cuda"), 128)) GTEST_SKIP() << "no such kernel here";
  constexpr int64_t kTokens = 2048, kIn = 128, kOut = 2048;
  std::mt19937 random(14);
  Arena arena(ParseDevice("cuda"));
  std::vector<Matrix> results;
  std::vector<SwiGlus> wanted;
  for (int i = 0; i < 2; ++i) {
    const Input x = Random(random, kTokens, kIn), weight = RandomWeight(random, 2 * kOut, kIn);
    results.push_back(arena.Poisoned(kTokens, kOut, DType::kBF16, 0));
    ASSERT_TRUE(LinearSwiGlu(arena.stream(), arena.Put(x, DType::kBF16, 0), PutFp8(arena, weight),
                             results.back()));
    wanted.push_back(SwiGluOf(ProductsOf(x, weight)));
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_LE(WorstError(arena.Get(results[i]), wanted[i].values, wanted[i].sizes), 2e-2);
  }
}

// In parts, where the whole weight would take too much when it is widened.
TEST(CudaFp8Prefill, LinearOfALargeWeight) {
  if (!HasGpu() || !HoldsFp8(ParseDevice("cuda"), 4096)) GTEST_SKIP() << "no such kernel here";
  constexpr int64_t kTokens = 70, kIn = 4096, kOut = 8192 + 520;
  std::mt19937 random(15);
  Arena arena(ParseDevice("cuda"));
  const Input x = Random(random, kTokens, kIn), weight = RandomWeight(random, kOut, kIn);
  const Matrix matrix = PutFp8(arena, weight), input = arena.Put(x, DType::kBF16, 0);
  const Matrix whole = arena.Poisoned(kTokens, kOut, DType::kF32, 0);
  Linear(arena.stream(), input, matrix, nullptr, whole);
  // Few rows at a time go through another kernel.
  const Matrix parts = arena.Poisoned(kTokens, kOut, DType::kF32, 0);
  for (int64_t row = 0; row < kTokens; row += 35) {
    Linear(arena.stream(), input.Rows(row, 35), matrix, nullptr, parts.Rows(row, 35));
  }
  EXPECT_LE(WorstError(arena.Get(whole), arena.Get(parts), ProductsOf(x, weight).sizes),
            kFp8Tolerance);
}

}  // namespace
}  // namespace fla
