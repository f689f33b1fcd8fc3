// The ops beside the recurrence that carry a state: the short convolution and the normaliser.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/device_matrix.h"
#include "tests/kernels/formulas.h"

namespace fla::testing {
namespace {

constexpr int kSlots = 9;

std::vector<int> CumulativeLengths(const std::vector<int>& lengths) {
  std::vector<int> ends = {0};
  for (const int length : lengths) ends.push_back(ends.back() + length);
  return ends;
}

struct Convolution {
  int channels = 0, width = 0;
  Activation activation = Activation::kSilu;
  std::vector<double> weight, bias;  // [C, W], [C] or empty
};

// One sequence by the definition. `state` [C, W - 1] is read and updated.
std::vector<double> ConvolveByDefinition(const Convolution& conv, const std::vector<double>& x,
                                         double* state) {
  const int channels = conv.channels, width = conv.width;
  const int length = static_cast<int>(x.size()) / channels;
  std::vector<double> out(x.size());
  for (int c = 0; c < channels; ++c) {
    std::vector<double> inputs(state + c * (width - 1), state + (c + 1) * (width - 1));
    for (int t = 0; t < length; ++t) inputs.push_back(x[t * channels + c]);
    for (int t = 0; t < length; ++t) {
      double sum = conv.bias.empty() ? 0.0 : conv.bias[c];
      for (int j = 0; j < width; ++j) sum += conv.weight[c * width + j] * inputs[t + j];
      out[t * channels + c] = ActivationOf(conv.activation, sum);
    }
    std::copy(inputs.end() - (width - 1), inputs.end(), state + c * (width - 1));
  }
  return out;
}

class SequenceOpsTest : public OpTest {
 protected:
  struct ConvolutionResult {
    std::vector<float> out, state;
  };

  // Runs sequences of `lengths` in `slots`. `state` [S, slot_stride] is the state before.
  ConvolutionResult Convolve(const Convolution& conv, const std::vector<double>& x,
                             const std::vector<int>& lengths, const std::vector<int>& slots,
                             const std::vector<float>& state) {
    const std::vector<int> ends = CumulativeLengths(lengths);
    const auto x_device = Upload(ends.back(), conv.channels, x);
    auto out = Poisoned(ends.back(), conv.channels);
    const auto weight = UploadFloats(conv.weight), bias = UploadFloats(conv.bias);
    const DeviceArray<float> state_device(stream(), state);
    const DeviceArray<int> slots_device(stream(), slots), ends_device(stream(), ends);
    ShortConvolution(stream(), {.x = x_device.view(),
                                .weight = weight.data(),
                                .bias = conv.bias.empty() ? nullptr : bias.data(),
                                .width = conv.width,
                                .activation = conv.activation,
                                .state = state_device.data(),
                                .slot_stride = static_cast<int64_t>(state.size() / kSlots),
                                .slots = slots_device.data(),
                                .cu_seqlens = ends_device.data(),
                                .cu_seqlens_host = ends.data(),
                                .num_sequences = static_cast<int>(lengths.size()),
                                .out = out.view()});
    return {out.Read(), state_device.Read()};
  }
};

TEST_P(SequenceOpsTest, ConvolvesRaggedSequences) {
  const std::vector<int> lengths = {3, 0, 1, 40, 2, 1, 7}, slots = {8, 0, 5, 2, 1, 7, 4};
  for (const int width : {2, 3, 4, 8}) {
    for (const int channels : {1, 50, 300, 512}) {
      for (const bool with_bias : {false, true}) {
        SCOPED_TRACE(::testing::Message() << width << " " << channels << " " << with_bias);
        const Convolution conv = {
            .channels = channels,
            .width = width,
            .activation = with_bias ? Activation::kIdentity : Activation::kSilu,
            .weight = RandomNormal(channels * width, 1, DType::kF32),
            .bias = with_bias ? RandomNormal(channels, 2, DType::kF32) : std::vector<double>{}};
        const int state_size = channels * (width - 1);
        const int slot_stride = state_size + 3;
        const auto x = RandomNormal(54 * channels, 3, dtype());
        const auto before = RandomNormal(kSlots * slot_stride, 4, DType::kF32);
        const auto result = Convolve(conv, x, lengths, slots, ToFloats(before));

        auto after = before;
        std::vector<double> wanted;
        int begin = 0;
        for (size_t n = 0; n < lengths.size(); ++n) {
          const std::vector<double> part(x.begin() + begin * channels,
                                         x.begin() + (begin + lengths[n]) * channels);
          const auto out = ConvolveByDefinition(conv, part, &after[slots[n] * slot_stride]);
          wanted.insert(wanted.end(), out.begin(), out.end());
          begin += lengths[n];
        }
        ExpectClose(result.out, wanted, dtype());
        // States are inputs as they were: exact, in every slot and in the gaps between slots.
        EXPECT_EQ(result.state, ToFloats(after));
      }
    }
  }
}

TEST_P(SequenceOpsTest, ConvolvedPiecesEqualTheWhole) {
  constexpr int kChannels = 70, kWidth = 4, kLength = 23;
  const Convolution conv = {.channels = kChannels,
                            .width = kWidth,
                            .weight = RandomNormal(kChannels * kWidth, 1, DType::kF32)};
  const auto x = RandomNormal(kLength * kChannels, 2, dtype());
  const std::vector<float> empty(kSlots * kChannels * (kWidth - 1), 0.0f);
  const auto whole = Convolve(conv, x, {kLength}, {3}, empty);
  for (const std::vector<int>& pieces :
       {std::vector<int>{1, 22}, {2, 1, 20}, {22, 1}, {5, 0, 18}, std::vector<int>(23, 1)}) {
    std::vector<float> out, state = empty;
    int begin = 0;
    for (const int length : pieces) {
      const std::vector<double> piece(x.begin() + begin * kChannels,
                                      x.begin() + (begin + length) * kChannels);
      const auto result = Convolve(conv, piece, {length}, {3}, state);
      out.insert(out.end(), result.out.begin(), result.out.end());
      state = result.state;
      begin += length;
    }
    EXPECT_EQ(out, whole.out);
    EXPECT_EQ(state, whole.state);
  }
}

TEST_P(SequenceOpsTest, NormalizerDividesByTheRunningKeySum) {
  const std::vector<int> lengths = {4, 0, 1, 33}, slots = {6, 1, 0, 3};
  const std::vector<int> ends = CumulativeLengths(lengths);
  const int tokens = ends.back();
  struct Shape {
    int key_dim, value_dim, heads, k_heads;
  };
  for (const auto [key_dim, value_dim, heads, k_heads] :
       {Shape{16, 24, 1, 1}, Shape{64, 32, 4, 2}, Shape{100, 7, 6, 1}}) {
    SCOPED_TRACE(key_dim);
    auto positive = [&](size_t count, uint32_t seed) {
      auto values = RandomNormal(count, seed, dtype());
      for (double& value : values) value = std::fabs(value);
      return values;
    };
    const auto q = positive(tokens * heads * key_dim, 1);
    const auto k = positive(tokens * k_heads * key_dim, 2);
    const auto before = positive(kSlots * heads * key_dim, 3);
    auto wanted = RandomNormal(tokens * heads * value_dim, 4, dtype());
    const auto q_device = Upload(tokens, heads * key_dim, q);
    const auto k_device = Upload(tokens, k_heads * key_dim, k);
    auto out = Upload(tokens, heads * value_dim, wanted);
    const auto state = UploadFloats(before);
    const DeviceArray<int> slots_device(stream(), slots), ends_device(stream(), ends);
    Normalizer(stream(), {.q = q_device.view(),
                          .k = k_device.view(),
                          .key_dim = key_dim,
                          .value_dim = value_dim,
                          .heads = heads,
                          .k_heads = k_heads,
                          .scale = 0.25f,
                          .state = state.data(),
                          .slots = slots_device.data(),
                          .cu_seqlens = ends_device.data(),
                          .cu_seqlens_host = ends.data(),
                          .num_sequences = 4,
                          .out = out.view()});
    auto after = before;
    for (size_t n = 0; n < lengths.size(); ++n) {
      for (int h = 0; h < heads; ++h) {
        double* z = &after[(slots[n] * heads + h) * key_dim];
        for (int t = ends[n]; t < ends[n + 1]; ++t) {
          double dot = 0;
          for (int i = 0; i < key_dim; ++i) {
            z[i] += k[(t * k_heads + h / (heads / k_heads)) * key_dim + i];
            dot += q[(t * heads + h) * key_dim + i] * z[i];
          }
          for (int i = 0; i < value_dim; ++i) {
            wanted[(t * heads + h) * value_dim + i] /= 0.25 * dot + 1e-10;
          }
        }
      }
    }
    ExpectClose(out, wanted);
    ExpectClose(state.Read(), after, DType::kF32);
  }
}

FLA_INSTANTIATE_OP_TEST(SequenceOpsTest);

}  // namespace
}  // namespace fla::testing
