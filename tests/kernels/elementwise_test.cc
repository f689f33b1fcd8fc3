#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/device_matrix.h"
#include "tests/kernels/formulas.h"

namespace fla::testing {
namespace {

class ElementwiseTest : public OpTest {};

TEST_P(ElementwiseTest, EmbeddingLookup) {
  for (const DType out_dtype : {dtype(), DType::kF32}) {
    constexpr int kVocab = 50, kWidth = 33;
    const auto table = RandomNormal(kVocab * kWidth, 1, dtype());
    const std::vector<int> tokens = {49, 0, 7, 7, 23};
    const auto table_device = Upload(kVocab, kWidth, table);
    const DeviceArray<int> tokens_device(stream(), tokens);
    DeviceMatrix out(stream(), out_dtype, 5, kWidth);
    const DeviceArray<DeviceTime> began(stream(), {0, 0});
    for (int i = 0; i < 2; ++i) {
      EmbeddingLookup(stream(), tokens_device.data(), table_device.view(), out.view(),
                      /*sampled=*/nullptr, began.data() + i);
    }
    EXPECT_GT(began.Read()[0], 0u);
    EXPECT_GT(began.Read()[1], began.Read()[0]);
    const std::vector<float> actual = out.Read();
    for (int t = 0; t < 5; ++t) {
      for (int i = 0; i < kWidth; ++i) {
        EXPECT_EQ(actual[t * kWidth + i], table[tokens[t] * kWidth + i]);
      }
    }
  }
}

// Checkpoints in F16 keep their table as it is.
TEST_P(ElementwiseTest, EmbeddingLookupInATableOfHalves) {
  const DeviceArray<uint16_t> table(stream(), {0x3c00, 0xc000, 0x0001, 0x7bff});  // [2, 2]
  const DeviceArray<int> tokens(stream(), {1, 0});
  DeviceMatrix out(stream(), DType::kF32, 2, 2);
  EmbeddingLookup(stream(), tokens.data(), {table.data(), DType::kF16, 2, 2, 2}, out.view());
  EXPECT_EQ(out.Read(), (std::vector<float>{0x1p-24f, 65504.0f, 1.0f, -2.0f}));
}

TEST_P(ElementwiseTest, WriteInts) {
  for (const int count : {0, 1, 1000, 1001, 5000}) {
    std::vector<int> values(count), wanted(count + 1, -1);
    for (int i = 0; i < count; ++i) wanted[i] = values[i] = 7 * i - 3;
    const DeviceArray<int> target(stream(), std::vector<int>(count + 1, -1));
    WriteInts(stream(), values, target.data());
    values.assign(count, 0);  // they have been read
    EXPECT_EQ(target.Read(), wanted);
  }
}

TEST_P(ElementwiseTest, GatherRows) {
  constexpr int kWidth = 70;
  const auto x = RandomNormal(9 * kWidth, 1, dtype());
  const std::vector<int> rows = {8, 2, 2, 0};
  const auto x_device = Upload(9, kWidth, x);
  const DeviceArray<int> rows_device(stream(), rows);
  auto out = Poisoned(4, kWidth);
  GatherRows(stream(), x_device.view(), rows_device.data(), out.view());
  const std::vector<float> actual = out.Read();
  for (int t = 0; t < 4; ++t) {
    for (int i = 0; i < kWidth; ++i) EXPECT_EQ(actual[t * kWidth + i], x[rows[t] * kWidth + i]);
  }
}

TEST_P(ElementwiseTest, SwiGlu) {
  for (const int width : {1, 37, 1024}) {
    const auto gate_up = RandomNormal(3 * 2 * width, 1, dtype(), 3.0);
    const auto gate_up_device = Upload(3, 2 * width, gate_up);
    auto out = Poisoned(3, width);
    SwiGlu(stream(), gate_up_device.view(), out.view());
    std::vector<double> wanted;
    for (int t = 0; t < 3; ++t) {
      for (int i = 0; i < width; ++i) {
        const double* row = &gate_up[t * 2 * width];
        wanted.push_back(ActivationOf(Activation::kSilu, row[i]) * row[width + i]);
      }
    }
    ExpectClose(out, wanted);
  }
}

TEST_P(ElementwiseTest, MultiplyAlsoInPlace) {
  for (const int width : {1, 37, 1024}) {
    const auto a = RandomNormal(3 * width, 1, dtype()), b = RandomNormal(3 * width, 2, dtype());
    auto a_device = Upload(3, width, a), b_device = Upload(3, width, b);
    auto out = Poisoned(3, width);
    std::vector<double> wanted;
    for (size_t i = 0; i < a.size(); ++i) wanted.push_back(a[i] * b[i]);
    Multiply(stream(), a_device.view(), b_device.view(), out.view());
    ExpectClose(out, wanted);
    auto left = Upload(3, width, a);
    Multiply(stream(), left.view(), b_device.view(), left.view());
    ExpectClose(left, wanted);
    Multiply(stream(), a_device.view(), b_device.view(), b_device.view());
    ExpectClose(b_device, wanted);
  }
}

TEST_P(ElementwiseTest, BetaIsAScaledSigmoid) {
  for (const double scale : {1.0, 2.0}) {
    const auto x = RandomNormal(7 * 6, 1, dtype(), 4.0);
    const auto x_device = Upload(7, 6, x);
    const auto out = UploadFloats(std::vector<double>(7 * 6, NAN));
    Beta(stream(), x_device.view(), static_cast<float>(scale), out.data());
    std::vector<double> wanted;
    for (const double value : x) wanted.push_back(scale * SigmoidOf(value));
    ExpectClose(out.Read(), wanted, DType::kF32);
  }
}

double LogDecayByDefinition(const LogDecayArgs& args, double x, double a_log, double bias) {
  switch (args.kind) {
    case GateKind::kLogSigmoid:
      return std::fmax(-SoftplusOf(-x) / args.normalizer, args.clamp_min);
    case GateKind::kSoftplus:
      return -std::exp(a_log) * SoftplusOf(x + bias);
    case GateKind::kBoundedSigmoid:
      return args.lower_bound * SigmoidOf(std::exp(a_log) * (x + bias));
  }
  return NAN;
}

TEST_P(ElementwiseTest, LogDecay) {
  constexpr int kRows = 5, kHeads = 3;
  for (const int channels : {1, 32, 50}) {
    const int width = kHeads * channels;
    auto x = RandomNormal(kRows * width, 1, dtype(), 3.0);
    x[0] = Rounded(-60.0, dtype());
    x[1] = Rounded(60.0, dtype());
    const auto a_log = RandomNormal(kHeads, 2, DType::kF32);
    const auto bias = RandomNormal(width, 3, DType::kF32);
    const auto x_device = Upload(kRows, width, x);
    const auto a_log_device = UploadFloats(a_log), bias_device = UploadFloats(bias);
    std::vector<LogDecayArgs> kinds = {
        {.kind = GateKind::kLogSigmoid, .normalizer = 16.0f},
        {.kind = GateKind::kLogSigmoid, .normalizer = 16.0f, .clamp_min = -0.05f},
        {.kind = GateKind::kSoftplus, .a_log = a_log_device.data()},
        {.kind = GateKind::kSoftplus, .a_log = a_log_device.data(), .dt_bias = bias_device.data()},
        {.kind = GateKind::kBoundedSigmoid,
         .a_log = a_log_device.data(),
         .dt_bias = bias_device.data(),
         .lower_bound = -5.0f}};
    for (LogDecayArgs& args : kinds) {
      SCOPED_TRACE(static_cast<int>(args.kind));
      const auto out = UploadFloats(std::vector<double>(kRows * width, NAN));
      args.x = x_device.view();
      args.heads = kHeads;
      args.out = out.data();
      LogDecay(stream(), args);
      std::vector<double> wanted;
      for (int i = 0; i < kRows * width; ++i) {
        const int channel = i % width;
        wanted.push_back(LogDecayByDefinition(args, x[i], a_log[channel / channels],
                                              args.dt_bias == nullptr ? 0.0 : bias[channel]));
      }
      const std::vector<float> actual = out.Read();
      ExpectClose(actual, wanted, DType::kF32);
      for (const float decay : actual) EXPECT_LE(decay, 0.0f);
    }
  }
}

FLA_INSTANTIATE_OP_TEST(ElementwiseTest);

}  // namespace
}  // namespace fla::testing
