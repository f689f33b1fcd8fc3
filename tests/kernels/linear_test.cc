#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/linear_weight.h"
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

class LinearTest : public OpTest {
 protected:
  // The weight as the device's Linear wants it: packed, or, where it reads rows, as it is.
  Matrix Packed(const std::vector<double>& w, int rows, int cols) {
    const size_t bytes = PackedLinearBytes(stream().device(), dtype(), rows, cols);
    if (bytes == 0) {
      return weights_.emplace_back(Upload(rows, cols, w)).view();
    }
    memory_.emplace_back(stream().device(), bytes);
    // Only a CPU packs, and its memory is the host's.
    const DeviceMatrix host(stream(), dtype(), rows, cols, w, /*gap=*/0);
    return PackLinear(stream().device(), host.view(), memory_.back().data());
  }

 private:
  std::vector<Buffer> memory_;
  std::vector<DeviceMatrix> weights_;
};

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

TEST_P(LinearTest, MatchesTheDefinitionWithPackedWeights) {
  struct Shape {
    int rows, in, out;
  };
  for (const auto [rows, in, out] :
       {Shape{1, 64, 48}, Shape{1, 1, 1}, Shape{3, 33, 129}, Shape{15, 1024, 256},
        Shape{16, 100, 200}, Shape{17, 384, 131}, Shape{97, 70, 65}, Shape{300, 384, 160},
        Shape{1, 256, 272}, Shape{70, 256, 257}}) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(in) + " x " + std::to_string(out));
    const auto x = RandomNormal(static_cast<size_t>(rows) * in, 1, dtype());
    const auto w = RandomNormal(static_cast<size_t>(out) * in, 2, dtype());
    const auto bias = RandomNormal(out, 3, DType::kF32);
    const Matrix packed = Packed(w, out, in);
    const auto x_device = Upload(rows, in, x);
    const auto bias_device = UploadFloats(bias);
    auto plain = Poisoned(rows, out);
    Linear(stream(), x_device.view(), packed, nullptr, plain.view());
    ExpectClose(plain, LinearByDefinition(x, w, {}, rows, in, out));
    DeviceMatrix biased(stream(), DType::kF32, rows, out);
    Linear(stream(), x_device.view(), packed, bias_device.data(), biased.view());
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
  if (stream().device().is_cuda() && dtype() != DType::kF32) {
    GTEST_SKIP() << "a GPU's kernel for bf16 depends on the number of rows";
  }
  for (const int in : {384, 1500}) {
    // The last panel has 12 rows.
    constexpr int kRows = 100, kOut = 140;
    const auto x = RandomNormal(static_cast<size_t>(kRows) * in, 1, dtype());
    const auto x_device = Upload(kRows, in, x);
    const auto w = RandomNormal(static_cast<size_t>(kOut) * in, 2, dtype());
    const auto w_device = Upload(kOut, in, w);
    for (const Matrix& weight : {w_device.view(), Packed(w, kOut, in)}) {
      DeviceMatrix together(stream(), DType::kF32, kRows, kOut);
      Linear(stream(), x_device.view(), weight, nullptr, together.view());
      const std::vector<float> wanted = together.Read();
      for (const int count : {1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 63, 64, 65, 97}) {
        const int first = kRows - count;
        DeviceMatrix part(stream(), DType::kF32, count, kOut);
        Linear(stream(), x_device.view().Rows(first, count), weight, nullptr, part.view());
        const std::vector<float> actual = part.Read();
        ASSERT_TRUE(std::equal(actual.begin(), actual.end(), wanted.begin() + first * kOut))
            << count << " rows of " << in << (weight.packed ? ", packed" : "");
      }
    }
  }
}

#if defined(__x86_64__)
TEST(PackedLinearTest, OneDnnServesProcessorsWithWideVectors) {
  if (!__builtin_cpu_supports("avx512dq")) GTEST_SKIP() << "no AVX-512 here";
  EXPECT_GE(PackedLinearBytes({}, DType::kF32, 300, 384), 300u * 384 * sizeof(float));
}

// As gates stand below the projections of a layer: none of them may keep a weight from oneDNN.
TEST(PackedLinearTest, OneDnnServesWeightsOfAnyNumberOfRows) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    if (PackedLinearBytes({}, dtype, 256, 384) == 0) continue;  // no kernel for this processor
    for (const int64_t rows : {129, 132, 140, 144, 145, 160, 6160}) {
      EXPECT_GT(PackedLinearBytes({}, dtype, rows, 384), 0u) << NameOf(dtype) << " " << rows;
    }
  }
}
#endif

FLA_INSTANTIATE_OP_TEST(LinearTest);

}  // namespace
}  // namespace fla::testing
