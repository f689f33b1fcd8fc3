// Every op on the GPU against the CPU's, over aligned and odd shapes, strided rows, f32 and bf16.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "tests/kernels/op_arena.h"
#include "tests/testing/compare.h"

namespace fla {
namespace {

struct Setting {
  DType dtype;
  int64_t rows;
  int unit;  // head_dim and column counts are multiples of it: 16 is vectorised, 3 is not
  int64_t gap;
};

class CudaOps : public ::testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no GPU";
  }

  // Runs `op` on both devices; it returns everything that it wrote.
  void Compare(const std::function<Results(Arena&)>& op, double bound_f32 = 2e-6) {
    Arena cpu(ParseDevice("cpu")), gpu(ParseDevice("cuda"));
    const auto wanted = op(cpu), actual = op(gpu);
    ASSERT_EQ(wanted.size(), actual.size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      const double bound = GetParam().dtype == DType::kF32 ? bound_f32 : 3e-3;
      EXPECT_LE((testing::RelativeError<float, float>(actual[i], wanted[i])), bound)
          << "result " << i;
    }
  }

  Matrix Out(Arena& arena, int64_t cols) { return arena.Poisoned(rows(), cols, dtype(), gap()); }
  Matrix In(Arena& arena, const Input& input) { return arena.Put(input, dtype(), gap()); }

  DType dtype() const { return GetParam().dtype; }
  int64_t rows() const { return GetParam().rows; }
  int64_t gap() const { return GetParam().gap; }
  int unit() const { return GetParam().unit; }

  std::mt19937 random_{7};
};

TEST_P(CudaOps, GatherAndEmbed) {
  const int64_t cols = 5 * unit();
  const Input table = Random(random_, 100, cols);
  std::vector<int> indices(rows());
  for (int& index : indices) index = static_cast<int>(random_() % 100);
  for (DType table_dtype : {DType::kF32, DType::kBF16}) {
    Compare([&](Arena& arena) {
      const Matrix source = arena.Put(table, table_dtype, gap());
      const Matrix a = Out(arena, cols), b = Out(arena, cols);
      EmbeddingLookup(arena.stream(), arena.Put(indices), source, a);
      GatherRows(arena.stream(), In(arena, table), arena.Put(indices), b);
      return Results{arena.Get(a), arena.Get(b)};
    });
  }
}

TEST_P(CudaOps, RmsNorms) {
  for (int64_t cols : {int64_t{1} * unit(), int64_t{24} * unit(), int64_t{700} * unit()}) {
    const Input x = Random(random_, rows(), cols), delta = Random(random_, rows(), cols);
    const Input weight = Random(random_, 1, cols);
    for (DType residual_dtype : {DType::kF32, dtype()}) {
      Compare([&](Arena& arena) {
        const Matrix residual = arena.Put(x, residual_dtype, gap());
        const Matrix a = Out(arena, cols), b = Out(arena, cols);
        const float* w = arena.Put(weight.values);
        RmsNorm(arena.stream(), residual, w, 1e-6f, a);
        AddRmsNorm(arena.stream(), residual, In(arena, delta), w, 1e-6f, b);
        return Results{arena.Get(a), arena.Get(b), arena.Get(residual)};
      });
    }
  }
}

TEST_P(CudaOps, Linear) {
  for (const int in : {4 * unit(), 24 * unit(), 16, 64, 128}) {
    for (int64_t out_cols : {3 * unit(), 40 * unit()}) {
      const Input x = Random(random_, rows(), in), weight = Random(random_, out_cols, in);
      const Input bias = Random(random_, 1, out_cols);
      for (const bool biased : {false, true}) {
        for (DType out_dtype : {DType::kF32, dtype()}) {
          Compare(
              [&](Arena& arena) {
                const Matrix out = arena.Poisoned(rows(), out_cols, out_dtype, gap());
                const float* b = biased ? arena.Put(bias.values) : nullptr;
                Linear(arena.stream(), In(arena, x), In(arena, weight), b, out);
                return Results{arena.Get(out)};
              },
              3e-6);
        }
      }
    }
  }
}

TEST_P(CudaOps, Elementwise) {
  const int64_t cols = 7 * unit();
  const Input a = Random(random_, rows(), cols), b = Random(random_, rows(), cols);
  const Input both = Random(random_, rows(), 2 * cols, 4.0f);
  Compare([&](Arena& arena) {
    const Matrix glu = Out(arena, cols), product = In(arena, a);
    SwiGlu(arena.stream(), In(arena, both), glu);
    Multiply(arena.stream(), product, In(arena, b), product);
    Matrix beta = arena.Poisoned(rows(), cols, DType::kF32, 0);
    Beta(arena.stream(), In(arena, a), 2.0f, static_cast<float*>(beta.data));
    return Results{arena.Get(glu), arena.Get(product), arena.Get(beta)};
  });
}

TEST_P(CudaOps, LogDecay) {
  for (int channels : {1, unit()}) {
    const int heads = 6;
    const int64_t cols = heads * channels;
    const Input x = Random(random_, rows(), cols, 10.0f), bias = Random(random_, 1, cols);
    const Input a_log = Random(random_, 1, heads);
    for (GateKind kind : {GateKind::kLogSigmoid, GateKind::kSoftplus, GateKind::kBoundedSigmoid}) {
      Compare([&](Arena& arena) {
        Matrix out = arena.Poisoned(rows(), cols, DType::kF32, 0);
        LogDecayArgs args{.kind = kind, .x = In(arena, x), .heads = heads};
        if (kind == GateKind::kLogSigmoid) {
          args.normalizer = 16.0f;
          args.clamp_min = -1.0f;
        } else {
          args.a_log = arena.Put(a_log.values);
          args.dt_bias = arena.Put(bias.values);
          args.lower_bound = -5.0f;
        }
        args.out = static_cast<float*>(out.data);
        LogDecay(arena.stream(), args);
        return Results{arena.Get(out)};
      });
    }
  }
}

TEST_P(CudaOps, HeadNorms) {
  for (int head_dim : {unit(), 8 * unit(), 40 * unit()}) {
    const int64_t cols = 3 * head_dim;
    const Input x = Random(random_, rows(), cols), gate = Random(random_, rows(), cols, 3.0f);
    const Input weight = Random(random_, 1, head_dim);
    for (HeadNorm norm : {HeadNorm::kNone, HeadNorm::kL2, HeadNorm::kSum, HeadNorm::kL1}) {
      // kSum divides by a sum that may come near 0: take it of positive values.
      const Activation activation =
          norm == HeadNorm::kSum ? Activation::kEluPlusOne : Activation::kSilu;
      Compare([&](Arena& arena) {
        const Matrix in_place = In(arena, x), out = Out(arena, cols);
        ActivateHeads(arena.stream(), {in_place, head_dim, activation, norm, 1e-6f, out});
        ActivateHeads(arena.stream(), {in_place, head_dim, activation, norm, 1e-6f, in_place});
        return Results{arena.Get(out), arena.Get(in_place)};
      });
    }
    for (const bool gated : {false, true}) {
      Compare([&](Arena& arena) {
        const Matrix out = Out(arena, cols);
        OutputNormArgs args{.x = In(arena, x), .head_dim = head_dim, .eps = 1e-5f, .out = out};
        args.normalize = gated || head_dim != unit();
        args.weight = head_dim == unit() ? nullptr : arena.Put(weight.values);
        if (gated) args.gate = In(arena, gate);
        OutputNorm(arena.stream(), args);
        return Results{arena.Get(out)};
      });
    }
  }
}

TEST_P(CudaOps, Activations) {
  const int64_t cols = 4 * unit();
  const Input x = Random(random_, rows(), cols, 5.0f);
  for (Activation activation :
       {Activation::kIdentity, Activation::kSilu, Activation::kSigmoid, Activation::kRelu,
        Activation::kReluPlusEps, Activation::kEluPlusOne, Activation::kGelu}) {
    Compare([&](Arena& arena) {
      const Matrix out = Out(arena, cols);
      ActivateHeads(arena.stream(), {In(arena, x), unit(), activation, HeadNorm::kNone, 0, out});
      return Results{arena.Get(out)};
    });
  }
}

TEST_P(CudaOps, FeatureMaps) {
  for (int head_dim : {2 * unit(), 20 * unit()}) {
    const int64_t cols = 2 * head_dim;
    const Input x = Random(random_, rows(), cols);
    std::vector<int> positions(rows());
    for (int& position : positions) position = static_cast<int>(random_() % 5000);
    Compare([&](Arena& arena) {
      const Matrix hedgehog = Out(arena, 2 * cols), dpfp = Out(arena, 6 * cols);
      HedgehogFeatureMap(arena.stream(), In(arena, x), head_dim, hedgehog);
      DpfpFeatureMap(arena.stream(), In(arena, x), head_dim, 3, dpfp);
      return Results{arena.Get(hedgehog), arena.Get(dpfp)};
    });
    // An angle of 5000 is known to 5000 * 2^-24 or 3e-4.
    Compare(
        [&](Arena& arena) {
          const Matrix rotated = In(arena, x);
          Rotary(arena.stream(), rotated, head_dim, 10000.0f, arena.Put(positions));
          return Results{arena.Get(rotated)};
        },
        1e-4);
  }
}

// Cuts `rows` into ragged sequences, empty ones among them.
std::vector<int> Ragged(std::mt19937& random, int64_t rows, bool single_tokens) {
  std::vector<int> cu_seqlens = {0};
  while (cu_seqlens.back() < rows) {
    const int length = single_tokens ? 1 : static_cast<int>(random() % 40);
    cu_seqlens.push_back(static_cast<int>(std::min<int64_t>(rows, cu_seqlens.back() + length)));
  }
  return cu_seqlens;
}

TEST_P(CudaOps, ShortConvolution) {
  for (int width : {2, 3, 4, 8}) {
    for (const bool decode : {false, true}) {
      const int64_t cols = 5 * unit();
      const std::vector<int> cu_seqlens = Ragged(random_, rows(), decode);
      const int num_sequences = static_cast<int>(cu_seqlens.size()) - 1;
      std::vector<int> slots(num_sequences + 2);
      std::iota(slots.begin(), slots.end(), 0);
      std::shuffle(slots.begin(), slots.end(), random_);
      const Input x = Random(random_, rows(), cols), weight = Random(random_, cols, width);
      const Input bias = Random(random_, 1, cols);
      const int64_t slot_stride = cols * (width - 1) + 4;
      const Input state = Random(random_, num_sequences + 2, slot_stride);
      Compare([&](Arena& arena) {
        const Matrix out = Out(arena, cols);
        const Matrix states = arena.Put(state, DType::kF32, 0);
        ShortConvolutionArgs args{.x = In(arena, x), .weight = arena.Put(weight.values)};
        if (width != 3) args.bias = arena.Put(bias.values);
        args.width = width;
        args.activation = width == 2 ? Activation::kIdentity : Activation::kSilu;
        args.state = static_cast<float*>(states.data);
        args.slot_stride = slot_stride;
        args.slots = arena.Put(slots);
        args.cu_seqlens = arena.Put(cu_seqlens);
        args.cu_seqlens_host = cu_seqlens.data();
        args.num_sequences = num_sequences;
        args.out = out;
        ShortConvolution(arena.stream(), args);
        return Results{arena.Get(out), arena.Get(states)};
      });
    }
  }
}

// Heads of one thread to more than a block has, in batches of tiles and of steps.
TEST_P(CudaOps, ShortConvolutionWithNorm) {
  for (int head_dim :
       {4 * unit(), 8 * unit(), 16 * unit(), 32 * unit(), 64 * unit(), 128 * unit()}) {
    for (const bool decode : {false, true}) {
      const int64_t normed = 3 * head_dim, cols = normed + 5 * unit();
      const std::vector<int> cu_seqlens = Ragged(random_, rows(), decode);
      const int num_sequences = static_cast<int>(cu_seqlens.size()) - 1;
      std::vector<int> slots(num_sequences);
      std::iota(slots.rbegin(), slots.rend(), 0);
      const Input x = Random(random_, rows(), cols), weight = Random(random_, cols, 4);
      const Input state = Random(random_, num_sequences, cols * 3);
      Compare([&](Arena& arena) {
        const Matrix out = Out(arena, cols), states = arena.Put(state, DType::kF32, 0);
        ShortConvolutionArgs args{.x = In(arena, x), .weight = arena.Put(weight.values)};
        args.width = 4;
        args.activation = Activation::kSilu;
        args.state = static_cast<float*>(states.data);
        args.slot_stride = cols * 3;
        args.slots = arena.Put(slots);
        args.cu_seqlens = arena.Put(cu_seqlens);
        args.cu_seqlens_host = cu_seqlens.data();
        args.num_sequences = num_sequences;
        args.out = out;
        args.normed = normed;
        args.head_dim = head_dim;
        args.norm_eps = 1e-6f;
        ShortConvolution(arena.stream(), args);
        return Results{arena.Get(out), arena.Get(states)};
      });
    }
  }
}

TEST_P(CudaOps, Normalizer) {
  const int K = 30 * unit(), V = 3 * unit(), heads = 4, k_heads = 2;
  const std::vector<int> cu_seqlens = Ragged(random_, rows(), false);
  const int num_sequences = static_cast<int>(cu_seqlens.size()) - 1;
  std::vector<int> slots(num_sequences);
  std::iota(slots.rbegin(), slots.rend(), 1);
  Input q = Random(random_, rows(), heads * K), k = Random(random_, rows(), k_heads * K);
  for (float& value : q.values) value = std::abs(value);  // as after a feature map
  for (float& value : k.values) value = std::abs(value);
  Input state = Random(random_, num_sequences + 1, heads * K);
  for (float& value : state.values) value = std::abs(value);
  const Input x = Random(random_, rows(), heads * V);
  Compare([&](Arena& arena) {
    const Matrix out = In(arena, x);
    const Matrix states = arena.Put(state, DType::kF32, 0);
    NormalizerArgs args{.q = In(arena, q), .k = In(arena, k), .key_dim = K, .value_dim = V};
    args.heads = heads;
    args.k_heads = k_heads;
    args.scale = 0.25f;
    args.state = static_cast<float*>(states.data);
    args.slots = arena.Put(slots);
    args.cu_seqlens = arena.Put(cu_seqlens);
    args.cu_seqlens_host = cu_seqlens.data();
    args.num_sequences = num_sequences;
    args.out = out;
    Normalizer(arena.stream(), args);
    return Results{arena.Get(out), arena.Get(states)};
  });
}

std::string NameOfSetting(const ::testing::TestParamInfo<Setting>& info) {
  const Setting& setting = info.param;
  return std::string(NameOf(setting.dtype)) + "Rows" + std::to_string(setting.rows) + "Unit" +
         std::to_string(setting.unit) + "Gap" + std::to_string(setting.gap);
}

INSTANTIATE_TEST_SUITE_P(
    All, CudaOps,
    ::testing::Values(Setting{DType::kF32, 1, 16, 0}, Setting{DType::kF32, 33, 16, 8},
                      Setting{DType::kF32, 150, 6, 1}, Setting{DType::kBF16, 1, 16, 0},
                      Setting{DType::kBF16, 33, 16, 8}, Setting{DType::kBF16, 150, 6, 1}),
    NameOfSetting);

}  // namespace
}  // namespace fla
