#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/device_matrix.h"
#include "tests/kernels/formulas.h"

namespace fla::testing {
namespace {

constexpr int kWidths[] = {1, 7, 64, 100, 384, 2048};

// Each run of `dim` entries times 1 / sqrt(mean of squares + eps), times weight unless empty.
std::vector<double> RmsNormByDefinition(std::vector<double> x, int dim,
                                        const std::vector<double>& weight, double eps) {
  for (size_t begin = 0; begin < x.size(); begin += dim) {
    double squares = 0;
    for (int i = 0; i < dim; ++i) squares += x[begin + i] * x[begin + i];
    const double scale = 1.0 / std::sqrt(squares / dim + eps);
    for (int i = 0; i < dim; ++i) x[begin + i] *= scale * (weight.empty() ? 1.0 : weight[i]);
  }
  return x;
}

class NormTest : public OpTest {};

TEST_P(NormTest, RmsNorm) {
  for (const int width : kWidths) {
    SCOPED_TRACE(width);
    const auto x = RandomNormal(9 * width, 1, dtype());
    const auto weight = RandomNormal(width, 2, DType::kF32);
    const auto x_device = Upload(9, width, x);
    const auto weight_device = UploadFloats(weight);
    auto out = Poisoned(9, width);
    RmsNorm(stream(), x_device.view(), weight_device.data(), 1e-3f, out.view());
    ExpectClose(out, RmsNormByDefinition(x, width, weight, 1e-3));
  }
}

TEST_P(NormTest, RmsNormOfZerosIsZero) {
  const auto x = Upload(1, 64, std::vector<double>(64, 0.0));
  const auto weight = UploadFloats(std::vector<double>(64, 1.0));
  auto out = Poisoned(1, 64);
  RmsNorm(stream(), x.view(), weight.data(), 1e-6f, out.view());
  EXPECT_EQ(out.Read(), std::vector<float>(64, 0.0f));
}

TEST_P(NormTest, AddRmsNorm) {
  for (const DType residual_dtype : {dtype(), DType::kF32}) {
    for (const int width : kWidths) {
      for (const bool in_place : {false, true}) {
        SCOPED_TRACE(::testing::Message() << width << (in_place ? " in place" : ""));
        auto sum = RandomNormal(5 * width, 1, residual_dtype);
        const auto delta = RandomNormal(5 * width, 2, dtype());
        const auto weight = RandomNormal(width, 3, DType::kF32);
        DeviceMatrix residual(stream(), residual_dtype, 5, width, sum);
        const auto delta_device = Upload(5, width, delta);
        const auto weight_device = UploadFloats(weight);
        const auto elsewhere = Poisoned(5, width);
        const auto& out = in_place ? delta_device : elsewhere;
        AddRmsNorm(stream(), residual.view(), delta_device.view(), weight_device.data(), 1e-6f,
                   out.view());
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += delta[i];
        ExpectClose(residual, sum);
        ExpectClose(out, RmsNormByDefinition(sum, width, weight, 1e-6));
      }
    }
  }
}

std::vector<double> LayerNormByDefinition(std::vector<double> x, const std::vector<double>& weight,
                                          const std::vector<double>& bias, double eps) {
  const size_t width = weight.size();
  for (size_t begin = 0; begin < x.size(); begin += width) {
    double mean = 0, variance = 0;
    for (size_t i = 0; i < width; ++i) mean += x[begin + i] / width;
    for (size_t i = 0; i < width; ++i) variance += std::pow(x[begin + i] - mean, 2) / width;
    for (size_t i = 0; i < width; ++i) {
      x[begin + i] = (x[begin + i] - mean) / std::sqrt(variance + eps) * weight[i] + bias[i];
    }
  }
  return x;
}

TEST_P(NormTest, LayerNorm) {
  for (const DType x_dtype : {dtype(), DType::kF32}) {
    for (const int width : kWidths) {
      for (const bool add : {false, true}) {
        SCOPED_TRACE(::testing::Message() << width << (add ? " with a delta, in place" : ""));
        auto x = RandomNormal(5 * width, 1, x_dtype);
        // A mean well above the deviation, where a variance from squares would lose its digits.
        for (double& value : x) value = Rounded(value + 30.0, x_dtype);
        const auto delta = RandomNormal(5 * width, 2, dtype());
        const auto weight = RandomNormal(width, 3, DType::kF32);
        const auto bias = RandomNormal(width, 4, DType::kF32);
        DeviceMatrix x_device(stream(), x_dtype, 5, width, x);
        const auto delta_device = Upload(5, width, delta);
        const auto weight_device = UploadFloats(weight), bias_device = UploadFloats(bias);
        const auto elsewhere = Poisoned(5, width);
        const auto& out = add ? delta_device : elsewhere;
        LayerNorm(stream(), {.x = x_device.view(),
                             .delta = add ? delta_device.view() : Matrix{},
                             .weight = weight_device.data(),
                             .bias = bias_device.data(),
                             .eps = 1e-5f,
                             .out = out.view()});
        for (size_t i = 0; add && i < x.size(); ++i) x[i] = Rounded(x[i] + delta[i], x_dtype);
        ExpectClose(x_device, x);
        const auto wanted = LayerNormByDefinition(x, weight, bias, 1e-5);
        // The mean of 30 costs a deviation of 1 five of f32's 24 bits.
        EXPECT_LT(RelativeError(std::span<const float>(out.Read()), std::span(wanted)),
                  dtype() == DType::kF32 ? 2e-5 : 4e-3);
      }
    }
  }
}

std::vector<double> ActivateHeadsByDefinition(std::vector<double> x, int dim, Activation activation,
                                              HeadNorm norm, double eps) {
  for (double& value : x) value = ActivationOf(activation, value);
  for (size_t begin = 0; begin < x.size(); begin += dim) {
    double sum = 0, magnitudes = 0, squares = 0;
    for (int i = 0; i < dim; ++i) {
      sum += x[begin + i];
      magnitudes += std::fabs(x[begin + i]);
      squares += x[begin + i] * x[begin + i];
    }
    double scale = 1.0;
    if (norm == HeadNorm::kL2) scale = 1.0 / std::sqrt(squares + eps);
    if (norm == HeadNorm::kSum) scale = 1.0 / (sum + eps);
    if (norm == HeadNorm::kL1) scale = 1.0 / std::fmax(magnitudes, eps);
    for (int i = 0; i < dim; ++i) x[begin + i] *= scale;
  }
  return x;
}

TEST_P(NormTest, ActivateHeads) {
  constexpr int kRows = 6, kHeads = 3;
  for (const int dim : {5, 32, 64, 100, 256}) {
    for (const Activation activation : kAllActivations) {
      for (const HeadNorm norm : {HeadNorm::kNone, HeadNorm::kL2, HeadNorm::kSum, HeadNorm::kL1}) {
        // A sum of entries of both signs may be near 0: no relative bound holds there.
        const bool signs_mix =
            activation != Activation::kSigmoid && activation != Activation::kEluPlusOne;
        if (norm == HeadNorm::kSum && signs_mix) continue;
        SCOPED_TRACE(std::to_string(dim) + " " + std::to_string(static_cast<int>(activation)) +
                     " " + std::to_string(static_cast<int>(norm)));
        const auto x = RandomNormal(kRows * kHeads * dim, dim, dtype(), 2.0);
        auto in_place = Upload(kRows, kHeads * dim, x);
        auto out = Poisoned(kRows, kHeads * dim);
        ActivateHeadsArgs args{.x = in_place.view(),
                               .head_dim = dim,
                               .activation = activation,
                               .norm = norm,
                               .eps = 1e-4f,
                               .out = out.view()};
        ActivateHeads(stream(), args);
        const auto wanted = ActivateHeadsByDefinition(x, dim, activation, norm, 1e-4f);
        ExpectClose(out, wanted);
        args.out = in_place.view();
        ActivateHeads(stream(), args);
        ExpectClose(in_place, wanted);
      }
    }
  }
}

// No activation may turn a fault of the model into a plausible number, or overflow on the way.
TEST_P(NormTest, ActivationsOfExtremeValues) {
  for (const Activation activation : kAllActivations) {
    SCOPED_TRACE(static_cast<int>(activation));
    const std::vector<double> x = {-1e4, -200, -88, -0.0, 0.0, 88, 200, 1e4};
    std::vector<double> rounded, wanted;
    for (const double value : x) {
      rounded.push_back(Rounded(value, dtype()));
      wanted.push_back(ActivationOf(activation, rounded.back()));
    }
    const auto x_device = Upload(1, 8, rounded);
    auto out = Poisoned(1, 8);
    ActivateHeads(
        stream(),
        {.x = x_device.view(), .head_dim = 8, .activation = activation, .out = out.view()});
    ExpectClose(out, wanted);

    auto nans = Poisoned(1, 21);
    ActivateHeads(stream(),
                  {.x = nans.view(), .head_dim = 21, .activation = activation, .out = nans.view()});
    for (const float value : nans.Read()) EXPECT_TRUE(std::isnan(value));
  }
}

TEST_P(NormTest, OutputNorm) {
  constexpr int kRows = 4, kHeads = 3;
  for (const int dim : {10, 64, 512}) {
    const auto x = RandomNormal(kRows * kHeads * dim, 1, dtype());
    const auto gate = RandomNormal(kRows * kHeads * dim, 2, dtype());
    const auto weight = RandomNormal(dim, 3, DType::kF32);
    const auto gate_device = Upload(kRows, kHeads * dim, gate);
    const auto weight_device = UploadFloats(weight);
    for (const bool normalize : {false, true}) {
      for (const bool weighted : {false, true}) {
        for (const bool gated : {false, true}) {
          for (const Activation activation : {Activation::kSilu, Activation::kSigmoid}) {
            SCOPED_TRACE(::testing::Message() << dim << normalize << weighted << gated);
            auto wanted = x;
            if (normalize) {
              wanted = RmsNormByDefinition(x, dim, weighted ? weight : std::vector<double>{}, 1e-5);
            }
            for (size_t i = 0; gated && i < wanted.size(); ++i) {
              wanted[i] *= ActivationOf(activation, gate[i]);
            }
            auto in_place = Upload(kRows, kHeads * dim, x);
            auto out = Poisoned(kRows, kHeads * dim);
            OutputNormArgs args{.x = in_place.view(),
                                .head_dim = dim,
                                .normalize = normalize,
                                .weight = weighted ? weight_device.data() : nullptr,
                                .eps = 1e-5f,
                                .gate = gated ? gate_device.view() : Matrix{},
                                .gate_activation = activation,
                                .out = out.view()};
            OutputNorm(stream(), args);
            ExpectClose(out, wanted);
            args.out = in_place.view();
            OutputNorm(stream(), args);
            ExpectClose(in_place, wanted);
          }
        }
      }
    }
  }
}

FLA_INSTANTIATE_OP_TEST(NormTest);

}  // namespace
}  // namespace fla::testing
