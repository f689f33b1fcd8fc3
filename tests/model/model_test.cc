// Loading and driving a model: what the golden checkpoints do not cover.
#include "model/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <span>
#include <string>

#include "kernels/fp8.h"
#include "model/safetensors.h"
#include "tests/testing/compare.h"
#include "tests/testing/golden_checkpoint.h"
#include "tests/testing/model_runner.h"
#include "tests/testing/temporary_folder.h"
#include "tests/testing/throws.h"

namespace fla {
namespace {

using testing::AllLogits;
using ::testing::AllOf;
using testing::ErrorOf;
using testing::FloatTensor;
using testing::GoldenConfig;
using testing::GoldenTensors;
using ::testing::HasSubstr;
using testing::kGolden;
using testing::LoadError;
using testing::TemporaryFolder;

double Error(const std::vector<float>& actual, const std::vector<float>& wanted) {
  return testing::RelativeError<float, float>(actual, wanted);
}

TEST(Model, NamesAMissingMisshapenOrLeftOverTensor) {
  const auto config = GoldenConfig("kda");
  const auto tensors = GoldenTensors("kda");
  const std::string name = "model.layers.1.attn.A_log";

  auto missing = tensors;
  missing.erase(name);
  EXPECT_THAT(LoadError(missing, config), AllOf(HasSubstr(name), HasSubstr("is missing")));

  auto misshapen = tensors;
  misshapen[name] = {{1, 2}, {0, 0}};
  EXPECT_THAT(LoadError(misshapen, config),
              AllOf(HasSubstr(name), HasSubstr("wanted shape [2], got [1, 2]")));

  auto left_over = tensors;
  left_over["model.layers.7.attn.A_log"] = {{2}, {0, 0}};
  EXPECT_THAT(LoadError(left_over, config),
              AllOf(HasSubstr("model.layers.7.attn.A_log"), HasSubstr("has no place")));

  EXPECT_EQ(LoadError(tensors, config), "(no error)");
}

TEST(Model, ReportsProgressAndSize) {
  double last = 0;
  int calls = 0;
  const auto model = Model::Load({.path = kGolden / "kda", .progress = [&](double fraction) {
                                    EXPECT_GE(fraction, last);
                                    last = fraction;
                                    ++calls;
                                  }});
  EXPECT_EQ(last, 1.0);
  EXPECT_GT(calls, 0);
  EXPECT_EQ(model->parameters(), 200900);  // as info.json of the checkpoint says
}

// Logits of a prompt of 70 tokens and of three steps after it.
std::vector<float> SomeLogits(const LoadOptions& options) {
  const auto model = Model::Load(options);
  StatePool pool(model->stream(), model->config(), 1);
  const int slot = pool.Acquire(model->stream());
  std::vector<float> all;
  int position = 0;
  for (const int length : {70, 1, 1, 1}) {
    testing::Piece piece{slot, position, {}};
    for (int i = 0; i < length; ++i) {
      piece.tokens.push_back((position + i) * 37 % model->config().vocab_size);
    }
    const std::vector<float> logits = AllLogits(*model, pool, {piece});
    all.insert(all.end(), logits.begin(), logits.end());
    position += length;
  }
  return all;
}

// A model with eight-bit weights is the model whose projections were rounded before.
TEST(Model, EightBitWeightsAreTheProjectionsRounded) {
  for (const char* name : {"kda-d128", "gated_deltanet", "gla", "retnet"}) {
    auto tensors = GoldenTensors(name);
    for (auto& [tensor_name, tensor] : tensors) {
      // Not the second halves of low-rank maps, and nothing but matrices.
      if (tensor_name.find("_proj") == std::string::npos || tensor.shape.size() != 2 ||
          tensor_name.find("_proj.1.") != std::string::npos) {
        continue;
      }
      const auto cols = static_cast<size_t>(tensor.shape[1]);
      for (size_t first = 0; first < tensor.values.size(); first += cols) {
        const std::span<float> row = std::span(tensor.values).subspan(first, cols);
        std::vector<BFloat16> rounded(cols);
        RoundToFp8(row, Fp8Scale(row), rounded.data());
        std::transform(rounded.begin(), rounded.end(), row.begin(),
                       [](BFloat16 value) { return static_cast<float>(value); });
      }
    }
    const TemporaryFolder folder;
    folder.Write("config.json", GoldenConfig(name).dump());
    folder.Write("model.safetensors", testing::SafetensorsOf(tensors));
    const auto wanted = SomeLogits({.path = folder.path(), .dtype = DType::kBF16});
    const LoadOptions options = {
        .path = kGolden / name, .dtype = DType::kBF16, .weight_dtype = DType::kF8E4M3};
    EXPECT_EQ(SomeLogits(options), wanted) << name;
  }
}

// Where a GPU reads the bytes, few rows and many go through other kernels.
TEST(Model, EightBitWeightsAreTheSameOnEveryDevice) {
  const Device device = ParseDevice("auto");
  if (!device.is_cuda()) GTEST_SKIP() << "no GPU";
  LoadOptions options = {.path = std::filesystem::path(FLA_SOURCE_DIR) / "demo/model",
                         .dtype = DType::kBF16,
                         .weight_dtype = DType::kF8E4M3};
  const std::vector<float> wanted = SomeLogits(options);
  options.device = device;
  EXPECT_LT(Error(SomeLogits(options), wanted), 4e-2);
}

// On a GPU a decode batch is replayed from a recording, padded to its size, once Prepare was
// called.
class RecordedDecode : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};

TEST_P(RecordedDecode, EqualsTheOpsOneByOne) {
  const Device device = ParseDevice("auto");
  if (!Recording::Supported(device)) GTEST_SKIP() << "no GPU";
  const auto& [name, dtype] = GetParam();
  const auto model = Model::Load(
      {.path = kGolden / name, .device = device, .dtype = dtype, .max_batch_tokens = 64});
  constexpr int kSlots = 21;  // 19 and 21 are recorded, 20 is padded
  StatePool pool(model->stream(), model->config(), kSlots);
  const auto run = [&](int sequences) {
    std::vector<int> slots;
    for (int i = 0; i < kSlots; ++i) slots.push_back(pool.Acquire(model->stream()));
    std::vector<float> all;
    for (int step = 0; step < 4; ++step) {
      std::vector<testing::Piece> pieces;
      for (int i = 0; i < sequences; ++i) {
        pieces.push_back({slots[i], step, {(i * 37 + step * 11) % model->config().vocab_size}});
      }
      const std::vector<float> logits = AllLogits(*model, pool, pieces);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    for (const int slot : slots) pool.Release(slot);
    return all;
  };
  std::map<int, std::vector<float>> wanted;
  for (const int sequences : {1, 2, 20, 21}) wanted[sequences] = run(sequences);
  const Buffer sampled(device, kSlots * sizeof(int));
  model->Prepare(pool, sampled.as<int>(), kSlots, kSlots);
  for (const auto& [sequences, logits] : wanted) {
    EXPECT_LT(Error(run(sequences), logits), dtype == DType::kF32 ? 1e-5 : 2e-2) << sequences;
  }
}

// Batches that leave their updates beside the states, and smaller ones that write them, in turn and
// recorded: as if every step wrote its own. Slots are used again.
TEST_P(RecordedDecode, EqualsItselfWithWaitingUpdates) {
  const Device device = ParseDevice("auto");
  if (!Recording::Supported(device)) GTEST_SKIP() << "no GPU";
  const auto& [name, dtype] = GetParam();
  const auto model = Model::Load(
      {.path = kGolden / name, .device = device, .dtype = dtype, .max_batch_tokens = 64});
  if (!TakesReplay(model->stream(), model->config())) GTEST_SKIP() << "no kernels";
  constexpr int kSlots = 21;
  const Buffer sampled(device, kSlots * sizeof(int));
  const auto run = [&](int replay) {
    StatePool pool(model->stream(), model->config(), kSlots, {DType::kF32, replay});
    model->Prepare(pool, sampled.as<int>(), kSlots, kSlots);
    std::vector<float> all;
    for (int round = 0; round < 2; ++round) {
      std::vector<int> slots, positions(kSlots, 0);
      for (int i = 0; i < kSlots; ++i) slots.push_back(pool.Acquire(model->stream()));
      for (const int sequences : {21, 20, 20, 2, 21, 1, 20, 20, 20, 20, 20, 20, 3, 21}) {
        std::vector<testing::Piece> pieces;
        for (int i = 0; i < sequences; ++i) {
          const int position = positions[i]++;
          const int token = (i * 37 + position * 11 + round) % model->config().vocab_size;
          pieces.push_back({slots[i], position, {token}});
        }
        const std::vector<float> logits = AllLogits(*model, pool, pieces);
        all.insert(all.end(), logits.begin(), logits.end());
      }
      for (const int slot : slots) pool.Release(slot);
    }
    return all;
  };
  const std::vector<float> wanted = run(0);
  for (const int replay : {2, 4}) {
    EXPECT_LT(Error(run(replay), wanted), dtype == DType::kF32 ? 1e-4 : 2e-2) << replay;
  }
}

// A prompt that is alone in its batch too: its logits, and the state that it leaves.
TEST_P(RecordedDecode, EqualsTheOpsOneByOneForPrompts) {
  const Device device = ParseDevice("auto");
  if (!Recording::Supported(device)) GTEST_SKIP() << "no GPU";
  const auto& [name, dtype] = GetParam();
  const auto model = Model::Load(
      {.path = kGolden / name, .device = device, .dtype = dtype, .max_batch_tokens = 300});
  StatePool pool(model->stream(), model->config(), 2);
  const auto run = [&](int length) {
    pool.Acquire(model->stream());
    const int slot = pool.Acquire(model->stream());
    std::vector<float> all;
    int position = 0;
    for (const int tokens : {length, 5, 1}) {  // a prompt's last pieces, then a token
      Batch batch{{}, {slot}, {0, tokens}, {position}, 0, {tokens - 1}};
      for (int t = 0; t < tokens; ++t) {
        batch.tokens.push_back((t * 37 + length) % model->config().vocab_size);
      }
      const Matrix logits = model->Forward(batch, pool).logits;
      std::vector<float> values(logits.cols);
      model->stream().CopyToHost(values.data(), logits.data, values.size() * sizeof(float));
      model->stream().Synchronize();
      all.insert(all.end(), values.begin(), values.end());
      position += tokens;
    }
    for (const int used : {0, 1}) pool.Release(used);
    return all;
  };
  std::map<int, std::vector<float>> wanted;
  for (const int length : {1, 3, 16, 33, 128, 129, 256, 300}) wanted[length] = run(length);
  const Buffer sampled(device, 2 * sizeof(int));
  model->Prepare(pool, sampled.as<int>(), 2, 2);
  for (const auto& [length, logits] : wanted) {
    EXPECT_LT(Error(run(length), logits), dtype == DType::kF32 ? 1e-5 : 5e-2) << length;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Golden, RecordedDecode,
    ::testing::Combine(::testing::Values("kda", "gated_deltanet", "gla", "retnet", "delta_net",
                                         "linear_attn-hadamard", "flash_linear_attention",
                                         "lightning_attention"),
                       ::testing::Values(DType::kF32, DType::kBF16)));

// Of the last layer, what follows the recurrence is run for the rows that are wanted alone: their
// logits, and the states, are those of a batch that wants all.
void ExpectWantedRows(LoadOptions options, double tolerance) {
  options.device = ParseDevice("auto");
  const auto model = Model::Load(options);
  const int vocab = model->config().vocab_size;
  StatePool pool(model->stream(), model->config(), 3);
  // A piece of a prompt; a token, another prompt's first piece and the last one of the first; two
  // tokens and the last piece.
  const std::vector<Batch> batches = {{{}, {2}, {0, 33}, {0}, 0, {}},
                                      {{}, {0, 1, 2}, {0, 1, 41, 131}, {0, 0, 33}, 1, {0, 130}},
                                      {{}, {0, 2, 1}, {0, 1, 2, 7}, {1, 123, 40}, 2, {0, 1, 6}}};
  const auto run = [&](bool all) {
    for (int i = 0; i < 3; ++i) pool.Acquire(model->stream());
    std::vector<float> logits;
    for (Batch batch : batches) {
      const std::vector<int> wanted = batch.logits_rows;
      const int tokens = batch.cu_seqlens.back();
      for (int t = 0; t < tokens; ++t) batch.tokens.push_back((t * 37 + tokens) % vocab);
      if (all) {
        batch.logits_rows.resize(tokens);
        std::iota(batch.logits_rows.begin(), batch.logits_rows.end(), 0);
      }
      const Matrix result = model->Forward(batch, pool).logits;
      EXPECT_EQ(result.rows, static_cast<int64_t>(batch.logits_rows.size()));
      for (size_t i = 0; i < wanted.size(); ++i) {
        std::vector<float> row(vocab);
        model->stream().CopyToHost(row.data(), result.Row<float>(all ? wanted[i] : i),
                                   vocab * sizeof(float));
        model->stream().Synchronize();
        logits.insert(logits.end(), row.begin(), row.end());
      }
    }
    for (int slot = 0; slot < 3; ++slot) pool.Release(slot);
    return logits;
  };
  const std::vector<float> wanted = run(true);
  ASSERT_EQ(wanted.size(), 5u * vocab);
  EXPECT_LT(Error(run(false), wanted), tolerance);
}

class WantedRows : public ::testing::TestWithParam<std::tuple<std::string, DType>> {};

TEST_P(WantedRows, AreThoseOfABatchThatWantsAll) {
  const auto& [name, dtype] = GetParam();
  ExpectWantedRows({.path = kGolden / name, .dtype = dtype}, dtype == DType::kF32 ? 1e-5 : 2e-2);
}

INSTANTIATE_TEST_SUITE_P(
    Golden, WantedRows,
    ::testing::Combine(::testing::Values("kda", "gated_deltanet", "gated_deltanet-gva", "gla",
                                         "gla-conv-mqa-tied", "retnet", "retnet-mqa-nogate",
                                         "delta_net", "linear_attn-relu-normqk",
                                         "flash_linear_attention", "lightning_attention"),
                       ::testing::Values(DType::kF32, DType::kBF16)));

TEST(Model, WantedRowsOfEightBitWeightsAreThoseOfABatchThatWantsAll) {
  ExpectWantedRows({.path = std::filesystem::path(FLA_SOURCE_DIR) / "demo/model",
                    .dtype = DType::kBF16,
                    .weight_dtype = DType::kF8E4M3},
                   2e-2);
}

TEST(Model, RefusesABatchThatWouldReadOutOfBounds) {
  const auto model = Model::Load({.path = kGolden / "kda"});
  StatePool pool(model->stream(), model->config(), 1);
  const auto error = [&](Batch batch) { return ErrorOf([&] { model->Forward(batch, pool); }); };
  EXPECT_THAT(error({{256}, {0}, {0, 1}, {0}, 1, {0}}), HasSubstr("token 256"));
  EXPECT_THAT(error({{-1}, {0}, {0, 1}, {0}, 1, {0}}), HasSubstr("token -1"));
  EXPECT_THAT(error({{1}, {1}, {0, 1}, {0}, 1, {0}}), HasSubstr("slot"));
  EXPECT_THAT(error({{1}, {0}, {0, 2}, {0}, 1, {0}}), HasSubstr("fit together"));
  EXPECT_THAT(error({{1, 2}, {0}, {0, 2}, {0}, 1, {0}}), HasSubstr("length"));
  EXPECT_THAT(error({{1}, {0}, {0, 1}, {0}, 1, {1}}), HasSubstr("logits row"));
  EXPECT_THAT(error({{1, 2}, {0}, {0, 2}, {0}, 0, {1, 0}}), HasSubstr("logits row"));
  EXPECT_THAT(error({{1}, {0}, {0, 1}, {0}, 1, {}, nullptr, {1}}), HasSubstr("hidden row"));
  EXPECT_THAT(error({{1}, {0}, {0, 1}, {0}, 1, {}, nullptr, {-1}}), HasSubstr("hidden row"));
  EXPECT_THAT(error({{0}, {0}, {0, 1}, {0}, 0, {}, nullptr, {}, {{0, 1}}}), HasSubstr("vectors"));
}

TEST(Model, RefusesVectorsThatWouldReadOutOfBounds) {
  const auto model = Model::Load({.path = kGolden / "flash_linear_attention"});
  const size_t size = model->config().embed_dim;
  StatePool pool(model->stream(), model->config(), 1);
  const auto error = [&](int tokens, int num_decode, std::vector<RowRange> rows, size_t vectors) {
    Batch batch{std::vector<int>(tokens), {0}, {0, tokens}, {0}, num_decode};
    batch.vector_rows = std::move(rows);
    batch.vectors.resize(vectors * size);
    return ErrorOf([&] { model->Forward(batch, pool); });
  };
  EXPECT_EQ(error(5, 0, {{0, 2}, {2, 1}, {4, 1}}, 4), "(no error)");
  EXPECT_THAT(error(5, 0, {{0, 2}}, 1), HasSubstr("vectors"));
  EXPECT_THAT(error(5, 0, {{0, 2}}, 3), HasSubstr("vectors"));
  for (const RowRange bad : {RowRange{4, 2}, {-1, 2}, {5, 1}, {0, 0}, {1, 2147483647}}) {
    EXPECT_THAT(error(5, 0, {bad}, 2), HasSubstr("vector rows"));
  }
  EXPECT_THAT(error(5, 0, {{2, 2}, {3, 1}}, 3), HasSubstr("vector rows"));  // overlap
  EXPECT_THAT(error(1, 1, {{0, 1}}, 1), HasSubstr("vector rows"));          // a decode row
}

class HiddenStates : public ::testing::TestWithParam<std::string> {};

// The head's product with the hidden states is the logits, which the golden tests check against the
// library's: of every row of a ragged batch with decode rows, wanted together or hidden alone.
TEST_P(HiddenStates, TimesTheHeadAreTheLogits) {
  const auto model = Model::Load({.path = kGolden / GetParam()});
  const int vocab = model->config().vocab_size, D = model->config().hidden_size;
  const auto tensors = GoldenTensors(GetParam());
  const auto head = tensors.find("lm_head.weight");
  const std::vector<float>& weights =
      head != tensors.end() ? head->second.values : tensors.at("model.embeddings.weight").values;
  StatePool pool(model->stream(), model->config(), 6);
  const auto run = [&](std::vector<int> hidden_rows, bool with_logits) {
    std::vector<int> slots;
    for (int i = 0; i < 3; ++i) slots.push_back(pool.Acquire(model->stream()));
    Batch batch{{}, slots, {0, 1, 71, 76}, {0, 0, 0}, 1, {}, nullptr, std::move(hidden_rows)};
    for (int row = 0; row < 76; ++row) {
      batch.tokens.push_back((row * 29 + 3) % vocab);
      if (with_logits) batch.logits_rows.push_back(row);
    }
    const ForwardResult result = model->Forward(batch, pool);
    for (const int slot : slots) pool.Release(slot);
    const auto copy = [](Matrix matrix) {
      const float* const begin = matrix.Row<float>(0);
      return std::vector<float>(begin, begin + matrix.rows * matrix.cols);
    };
    EXPECT_EQ(result.logits.present(), with_logits);
    return std::pair(copy(result.hidden), with_logits ? copy(result.logits) : std::vector<float>());
  };
  std::vector<int> all_rows(76);
  std::iota(all_rows.begin(), all_rows.end(), 0);
  const auto [hidden, logits] = run(all_rows, true);
  ASSERT_EQ(hidden.size(), 76u * D);
  std::vector<float> product;
  for (int row = 0; row < 76; ++row) {
    for (int token = 0; token < vocab; ++token) {
      double sum = 0;
      for (int i = 0; i < D; ++i) sum += double{hidden[row * D + i]} * weights[token * D + i];
      product.push_back(static_cast<float>(sum));
    }
  }
  EXPECT_LT(Error(logits, product), 1e-6);

  EXPECT_EQ(run(all_rows, false).first, hidden);
  const auto [some, some_logits] = run({0, 40, 75}, true);
  EXPECT_EQ(some_logits, logits);
  std::vector<float> wanted;
  for (const int row : {0, 40, 75}) {
    wanted.insert(wanted.end(), hidden.begin() + row * D, hidden.begin() + (row + 1) * D);
  }
  EXPECT_EQ(some, wanted);
}

INSTANTIATE_TEST_SUITE_P(Golden, HiddenStates,
                         ::testing::Values("kda", "gated_deltanet", "gla-conv-mqa-tied", "retnet",
                                           "linear_attn-relu-normqk"));

// ---- Options that no golden checkpoint has, checked by prefill against steps: the two schedules
// share the layer but neither the recurrence nor the way a state enters.

struct Option {
  std::string name;
  std::string base;  // golden checkpoint that lends its tensors
  nlohmann::json change;
};

void PrintTo(const Option& option, std::ostream* out) { *out << option.name; }

class ModelOption : public ::testing::TestWithParam<Option> {};

// The tensors that the changed configuration wants, random where the base has none.
std::map<std::string, FloatTensor> Fit(const TemporaryFolder& folder,
                                       std::map<std::string, FloatTensor> tensors) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.2f);
  for (int attempt = 0; attempt < 200; ++attempt) {
    folder.Write("model.safetensors", testing::SafetensorsOf(tensors));
    const std::string error = ErrorOf([&] { Model::Load({.path = folder.path()}); });
    if (error == "(no error)") return tensors;
    const size_t name_at = error.find("tensor ") + 7;
    const std::string name = error.substr(name_at, error.find_first_of(": ", name_at) - name_at);
    if (error.find("has no place") != std::string::npos) {
      tensors.erase(name);
      continue;
    }
    const size_t shape_at = error.find("shape [") + 7;
    if (shape_at == std::string::npos + 7) {
      ADD_FAILURE() << error;
      return tensors;
    }
    FloatTensor tensor;
    int64_t elements = 1;
    for (const auto& size : nlohmann::json::parse(
             "[" + error.substr(shape_at, error.find(']', shape_at) - shape_at) + "]")) {
      tensor.shape.push_back(size);
      elements *= size.get<int64_t>();
    }
    for (int64_t i = 0; i < elements; ++i) tensor.values.push_back(normal(random));
    tensors[name] = tensor;
  }
  ADD_FAILURE() << "the checkpoint never fitted";
  return tensors;
}

TEST_P(ModelOption, PrefillEqualsSteps) {
  const Option& option = GetParam();
  const TemporaryFolder folder;
  nlohmann::json config = GoldenConfig(option.base);
  config.update(option.change);
  folder.Write("config.json", config.dump());
  Fit(folder, GoldenTensors(option.base));

  const auto model = Model::Load({.path = folder.path()});
  StatePool pool(model->stream(), model->config(), 2);
  const int whole = pool.Acquire(model->stream()), stepped = pool.Acquire(model->stream());
  std::vector<int> tokens;
  for (int i = 0; i < 90; ++i) tokens.push_back((i * 37 + 11) % 256);
  const std::vector<float> prefill = AllLogits(*model, pool, {{whole, 0, tokens}});
  std::vector<float> steps;
  for (int t = 0; t < 90; ++t) {
    const std::vector<float> row = AllLogits(*model, pool, {{stepped, t, {tokens[t]}}});
    steps.insert(steps.end(), row.begin(), row.end());
  }
  for (const float logit : steps) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_LT(Error(prefill, steps), 2e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Options, ModelOption,
    ::testing::Values(
        Option{"hedgehog", "linear_attn-elu", {{"feature_map", "hedgehog"}}},
        Option{"hedgehog_tied",
               "linear_attn-elu",
               {{"feature_map", "hedgehog"}, {"tie_feature_map_qk", true}}},
        Option{"t2r", "linear_attn-elu", {{"feature_map", "t2r"}}},
        Option{"dpfp", "linear_attn-elu", {{"feature_map", "dpfp"}}},
        Option{"normalizer", "linear_attn-elu", {{"norm_feature_map", true}}},
        Option{"no_affine", "linear_attn-elu", {{"elementwise_affine", false}}},
        Option{"retnet_conv", "retnet", {{"use_short_conv", true}, {"feature_map", "relu"}}},
        Option{"gla_plain_norm", "gla", {{"fuse_norm", false}}},
        Option{"gla_feature_map", "gla", {{"feature_map", "swish"}}},
        Option{"delta_relu_sum", "delta_net", {{"qk_activation", "relu"}, {"qk_norm", "sum"}}},
        Option{"delta_elu_l2", "delta_net", {{"qk_activation", "elu"}}},
        Option{"delta_no_beta", "delta_net", {{"use_beta", false}}},
        Option{"delta_no_conv", "delta_net", {{"use_short_conv", false}}},
        Option{"gdn_no_gate", "gated_deltanet", {{"use_gate", false}}},
        Option{"gdn_sigmoid_gate", "gated_deltanet", {{"output_gate_activation", "sigmoid"}}},
        Option{"gdn_no_conv", "gated_deltanet", {{"use_short_conv", false}}},
        Option{"kda_grouped", "kda", {{"num_v_heads", 4}, {"head_dim", 32}}},
        Option{"kda_no_conv", "kda", {{"use_short_conv", false}}},
        Option{"kda_negative_eigenvalues", "kda", {{"allow_neg_eigval", true}}},
        Option{"kda_wide_values", "kda", {{"expand_v", 2.0}}},
        Option{"conv_size_3", "kda", {{"conv_size", 3}}}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace fla
