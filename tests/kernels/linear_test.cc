#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/device_matrix.h"

namespace fla::testing {
namespace {

std::vector<double> LinearByDefinition(const std::vector<double>& x, const std::vector<double>& w,
                                       const std::vector<double>& bias, int rows, int in, int out) {
  std::vector<double> wanted(static_cast<size_t>(rows) * out);
  for (int t = 0; t < rows; ++t) {
    for (int n = 0; n < out; ++n) {
      double sum = bias.empty() ? 0.0 : bias[n];
      for (int k = 0; k < in; ++k) sum += x[t * in + k] * w[n * in + k];
      wanted[t * out + n] = sum;
    }
  }
  return wanted;
}

class LinearTest : public OpTest {};

TEST_P(LinearTest, MatchesTheDefinition) {
  struct Shape {
    int rows, in, out;
  };
  for (const auto [rows, in, out] :
       {Shape{1, 64, 48}, Shape{1, 1, 1}, Shape{2, 3, 5}, Shape{3, 33, 31}, Shape{4, 100, 37},
        Shape{5, 1024, 8}, Shape{6, 1025, 7}, Shape{7, 2500, 40}, Shape{97, 70, 65},
        Shape{200, 384, 96}, Shape{13, 16, 384}}) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(in) + " x " + std::to_string(out));
    const auto x = RandomNormal(static_cast<size_t>(rows) * in, 1, dtype());
    const auto w = RandomNormal(static_cast<size_t>(out) * in, 2, dtype());
    const auto bias = RandomNormal(out, 3, DType::kF32);
    const auto x_device = Upload(rows, in, x);
    const auto w_device = Upload(out, in, w);
    const auto bias_device = UploadFloats(bias);
    auto plain = Poisoned(rows, out);
    Linear(stream(), x_device.view(), w_device.view(), nullptr, plain.view());
    ExpectClose(plain, LinearByDefinition(x, w, {}, rows, in, out));
    DeviceMatrix biased(stream(), DType::kF32, rows, out);
    Linear(stream(), x_device.view(), w_device.view(), bias_device.data(), biased.view());
    ExpectClose(biased, LinearByDefinition(x, w, bias, rows, in, out));
  }
}

TEST_P(LinearTest, TakesNoRows) {
  const auto w = Upload(8, 4, RandomNormal(32, 1, dtype()));
  Matrix x = w.view().Rows(0, 0);
  auto out = Poisoned(1, 8);
  Linear(stream(), x, w.view(), nullptr, out.view().Rows(0, 0));
  for (const float value : out.Read()) EXPECT_TRUE(std::isnan(value));
}

// What lets a request give the same tokens alone and in any batch.
TEST_P(LinearTest, ARowDoesNotDependOnItsCompany) {
  if (stream().device().is_cuda()) GTEST_SKIP() << "cuBLASLt picks its kernel by the row count";
  for (const int in : {384, 1500}) {
    constexpr int kRows = 100, kOut = 40;
    const auto x = RandomNormal(static_cast<size_t>(kRows) * in, 1, dtype());
    const auto x_device = Upload(kRows, in, x);
    const auto w_device =
        Upload(kOut, in, RandomNormal(static_cast<size_t>(kOut) * in, 2, dtype()));
    DeviceMatrix together(stream(), DType::kF32, kRows, kOut);
    Linear(stream(), x_device.view(), w_device.view(), nullptr, together.view());
    const std::vector<float> wanted = together.Read();
    for (const int count : {1, 2, 3, 4, 5, 6, 7, 97}) {
      const int first = kRows - count;
      DeviceMatrix part(stream(), DType::kF32, count, kOut);
      Linear(stream(), x_device.view().Rows(first, count), w_device.view(), nullptr, part.view());
      const std::vector<float> actual = part.Read();
      ASSERT_TRUE(std::equal(actual.begin(), actual.end(), wanted.begin() + first * kOut))
          << count << " rows of " << in;
    }
  }
}

FLA_INSTANTIATE_OP_TEST(LinearTest);

}  // namespace
}  // namespace fla::testing
