#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/device_matrix.h"

namespace fla::testing {
namespace {

constexpr int kRows = 4, kHeads = 3;
constexpr int kHeadDims[] = {2, 18, 64, 128};

class FeatureMapsTest : public OpTest {};

TEST_P(FeatureMapsTest, HedgehogIsASoftmaxOfBothSigns) {
  for (const int dim : kHeadDims) {
    auto x = RandomNormal(kRows * kHeads * dim, 1, dtype(), 3.0);
    x[0] = Rounded(300.0, dtype());  // exp(600) is infinite: only differences may be exponentiated
    const auto x_device = Upload(kRows, kHeads * dim, x);
    auto out = Poisoned(kRows, kHeads * 2 * dim);
    HedgehogFeatureMap(stream(), x_device.view(), dim, out.view());
    std::vector<double> wanted;
    for (size_t begin = 0; begin < x.size(); begin += dim) {
      double largest = 0, sum = 0;
      for (int i = 0; i < dim; ++i) largest = std::fmax(largest, std::fabs(2 * x[begin + i]));
      std::vector<double> head;
      for (const double sign : {2.0, -2.0}) {
        for (int i = 0; i < dim; ++i) head.push_back(std::exp(sign * x[begin + i] - largest));
      }
      for (const double value : head) sum += value;
      for (const double value : head) wanted.push_back(value / sum);
    }
    ExpectClose(out, wanted);
  }
}

TEST_P(FeatureMapsTest, DpfpMultipliesRolledRelus) {
  for (const int dim : kHeadDims) {
    for (const int nu : {1, 2, 4, 5}) {
      SCOPED_TRACE(std::to_string(dim) + " " + std::to_string(nu));
      const auto x = RandomNormal(kRows * kHeads * dim, 1, dtype());
      const auto x_device = Upload(kRows, kHeads * dim, x);
      auto out = Poisoned(kRows, kHeads * 2 * dim * nu);
      DpfpFeatureMap(stream(), x_device.view(), dim, nu, out.view());
      std::vector<double> wanted;
      for (size_t begin = 0; begin < x.size(); begin += dim) {
        std::vector<double> y;
        for (int i = 0; i < dim; ++i) y.push_back(std::fmax(x[begin + i], 0.0));
        for (int i = 0; i < dim; ++i) y.push_back(std::fmax(-x[begin + i], 0.0));
        for (int j = 1; j <= nu; ++j) {
          // torch.roll(y, j)[i] is y[i - j]
          for (int i = 0; i < 2 * dim; ++i) {
            wanted.push_back(y[i] * y[((i - j) % (2 * dim) + 2 * dim) % (2 * dim)]);
          }
        }
      }
      ExpectClose(out, wanted);
    }
  }
}

TEST_P(FeatureMapsTest, RotaryTurnsPairsByPosition) {
  const std::vector<int> positions = {0, 1, 77, 2047};
  for (const int dim : kHeadDims) {
    SCOPED_TRACE(dim);
    const auto x = RandomNormal(kRows * kHeads * dim, 1, dtype());
    auto x_device = Upload(kRows, kHeads * dim, x);
    const DeviceArray<int> positions_device(stream(), positions);
    Rotary(stream(), x_device.view(), dim, 10000.0f, positions_device.data());
    auto wanted = x;
    for (int t = 0; t < kRows; ++t) {
      for (int head = 0; head < kHeads; ++head) {
        for (int i = 0; i < dim / 2; ++i) {
          const double angle = positions[t] * std::pow(10000.0, -2.0 * i / dim);
          const size_t low = (t * kHeads + head) * dim + i, high = low + dim / 2;
          wanted[low] = x[low] * std::cos(angle) - x[high] * std::sin(angle);
          wanted[high] = x[high] * std::cos(angle) + x[low] * std::sin(angle);
        }
      }
    }
    // An angle of 2047 in f32 is off by up to 1e-4.
    const std::vector<float> actual = x_device.Read();
    EXPECT_LT(RelativeError(std::span(actual), std::span<const double>(wanted)),
              dtype() == DType::kF32 ? 1e-4 : 3e-3);
    for (int i = 0; i < kHeads * dim; ++i) EXPECT_EQ(actual[i], x[i]) << "position 0";
  }
}

FLA_INSTANTIATE_OP_TEST(FeatureMapsTest);

}  // namespace
}  // namespace fla::testing
