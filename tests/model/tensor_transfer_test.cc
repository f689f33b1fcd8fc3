#include "model/tensor_transfer.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <span>
#include <string>

#include "kernels/fp8.h"
#include "model/tensor_conversion.h"
#include "tests/testing/checkpoint_writer.h"
#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using testing::SafetensorsFile;
using testing::TemporaryFolder;

StoredTensor OfDType(StoredDType dtype, std::vector<int64_t> shape) {
  StoredTensor tensor;
  tensor.dtype = dtype;
  tensor.elements = 1;
  for (const int64_t size : shape) tensor.elements *= size;
  tensor.shape = std::move(shape);
  return tensor;
}

TEST(TensorConversion, AgreesWithTheDefinitionForAllHalves) {
  const StoredTensor tensor = OfDType(StoredDType::kF16, {1 << 16});
  std::vector<uint16_t> halves(1 << 16), rounded(1 << 16);
  for (int i = 0; i < 1 << 16; ++i) halves[i] = static_cast<uint16_t>(i);
  std::vector<float> floats(1 << 16);
  ConvertElements(tensor, 0, 1 << 16, reinterpret_cast<const char*>(halves.data()), DType::kF32,
                  reinterpret_cast<char*>(floats.data()));
  ConvertElements(tensor, 0, 1 << 16, reinterpret_cast<const char*>(halves.data()), DType::kBF16,
                  reinterpret_cast<char*>(rounded.data()));
  for (int i = 0; i < 1 << 16; ++i) {
    const float wanted = HalfToFloat(static_cast<uint16_t>(i));
    EXPECT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(wanted)) << i;
    EXPECT_EQ(rounded[i], BFloat16(wanted).bits) << i;
  }
}

// Per tensor, per row and in blocks that the matrix does not fill, from any first row.
TEST(TensorConversion, AppliesScales) {
  StoredTensor tensor = OfDType(StoredDType::kF8E4M3, {5, 7});
  std::vector<uint8_t> bits(35);
  for (int i = 0; i < 35; ++i) bits[i] = static_cast<uint8_t>(i * 5);
  for (const auto& [rows, cols] : {std::pair{5, 7}, {1, 7}, {2, 3}, {4, 4}}) {
    BlockScale scale{rows, cols, (7 + cols - 1) / cols, {}};
    for (int i = 0; i < (5 + rows - 1) / rows * scale.grid_cols; ++i) {
      scale.values.push_back(0.5f + static_cast<float>(i));
    }
    tensor.scale = std::make_shared<const BlockScale>(scale);
    for (const int first : {0, 7, 10}) {
      std::vector<float> out(35 - first);
      ConvertElements(tensor, first, 35 - first, reinterpret_cast<const char*>(bits.data()) + first,
                      DType::kF32, reinterpret_cast<char*>(out.data()));
      for (int i = first; i < 35; ++i) {
        const float factor = scale.values[i / 7 / rows * scale.grid_cols + i % 7 / cols];
        EXPECT_EQ(out[i - first], E4M3ToFloat(bits[i]) * factor) << i;
      }
    }
  }
}

// More than a round of the staging buffers, of pieces of every kind.
TEST(TensorTransfer, MovesTheSameStagedAndNot) {
  constexpr int64_t kFloats = 20'000'003, kHalves = 5'000'001;
  std::string payload(kFloats * 4 + kHalves * 2, 0);
  std::mt19937 random(3);
  for (size_t i = 0; i + 4 <= payload.size(); i += 4) {
    const float value = static_cast<float>(random()) * 1e-9f;
    std::memcpy(payload.data() + i, &value, 4);
  }
  const std::string floats_end = std::to_string(kFloats * 4);
  const TemporaryFolder folder;
  folder.Write("model.safetensors",
               SafetensorsFile(R"({"f": {"dtype": "F32", "shape": [)" + std::to_string(kFloats) +
                                   R"(], "data_offsets": [0, )" + floats_end +
                                   R"(]}, "h": {"dtype": "F16", "shape": [)" +
                                   std::to_string(kHalves) + R"(], "data_offsets": [)" +
                                   floats_end + ", " + std::to_string(payload.size()) + "]}}",
                               payload));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  Stream stream({});
  for (const bool staged : {false, true}) {
    std::vector<float> floats(kFloats), halves(kHalves);
    std::vector<BFloat16> rounded(kFloats);
    TensorTransfer transfer(staged);
    transfer.Add(checkpoint.tensors().at("h"), DType::kF32, halves.data());
    transfer.Add(checkpoint.tensors().at("f"), DType::kF32, floats.data());
    transfer.Add(checkpoint.tensors().at("f"), DType::kBF16, rounded.data());
    double last = 0;
    transfer.Run(stream, [&](double fraction) {
      EXPECT_GE(fraction, last);
      last = fraction;
    });
    EXPECT_LE(last, 1.0);
    EXPECT_EQ(std::memcmp(floats.data(), payload.data(), kFloats * 4), 0) << staged;
    for (int64_t i = 0; i < kFloats; ++i) {
      ASSERT_EQ(rounded[i].bits, BFloat16(floats[i]).bits) << i << " " << staged;
    }
    for (int64_t i = 0; i < kHalves; ++i) {
      uint16_t bits;
      std::memcpy(&bits, payload.data() + kFloats * 4 + i * 2, 2);
      const float wanted = HalfToFloat(bits);
      ASSERT_EQ(std::bit_cast<uint32_t>(halves[i]), std::bit_cast<uint32_t>(wanted)) << i;
    }
  }
}

// Blocks that meet inside of a panel, converted and not, with rows of zeros between them.
TEST(TensorTransfer, PacksPanelsAsPackingTheirRowsDoes) {
  constexpr int64_t kCols = 96, kRows = 300;
  if (PackedLinearBytes({}, DType::kBF16, kRows, kCols) == 0 &&
      PackedLinearBytes({}, DType::kF32, kRows, kCols) == 0) {
    GTEST_SKIP() << "no packed weights on this processor";
  }
  std::map<std::string, testing::FloatTensor> tensors;
  std::mt19937 random(5);
  for (const auto& [name, rows] : {std::pair{"a", 70}, {"b", 1}, {"c", 220}}) {
    std::vector<float> values(rows * kCols);
    for (float& value : values) value = static_cast<float>(random()) * 1e-9f - 2.0f;
    tensors[name] = {{rows, kCols}, values};
  }
  const TemporaryFolder folder;
  folder.Write("model.safetensors", testing::SafetensorsOf(tensors));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  const auto stored = [&](const char* name) { return &checkpoint.tensors().at(name); };
  const std::vector<TensorTransfer::Block> blocks = {
      {stored("c"), 220}, {nullptr, 9}, {stored("b"), 1}, {stored("a"), 70}};
  Stream stream({});
  struct Way {
    DType held;
    bool fp8;
  };
  for (const auto [held, fp8] :
       {Way{DType::kF32, false}, Way{DType::kBF16, false}, Way{DType::kBF16, true}}) {
    const size_t bytes = PackedLinearBytes({}, held, kRows, kCols);
    if (bytes == 0) continue;
    std::vector<char> rows(kRows * kCols * SizeOf(held), 0);
    const int64_t row_bytes = kCols * static_cast<int64_t>(SizeOf(held));
    TensorTransfer plain(false);
    const TensorTransfer::Fp8Rows fp8_rows = {.cols = fp8 ? kCols : 0};
    plain.Add(*stored("c"), held, rows.data(), fp8_rows);
    plain.Add(*stored("b"), held, rows.data() + 229 * row_bytes, fp8_rows);
    plain.Add(*stored("a"), held, rows.data() + 230 * row_bytes, fp8_rows);
    plain.Run(stream, {});
    const Buffer wanted({}, bytes), actual({}, bytes);
    std::memset(wanted.data(), 0, bytes);
    std::memset(actual.data(), 0, bytes);
    PackLinear({}, {rows.data(), held, kRows, kCols, kCols}, wanted.data());
    TensorTransfer packed(false);
    packed.AddPacked(blocks, kCols, held, fp8,
                     LinearPacking({}, held, kRows, kCols, actual.data()));
    double last = 0;
    packed.Run(stream, [&](double fraction) { last = fraction; });
    EXPECT_EQ(last, 1.0);
    EXPECT_EQ(std::memcmp(wanted.data(), actual.data(), bytes), 0) << NameOf(held);
  }
}

// Of several pieces. As bytes and as the numbers that they are; from where they are stored as bf16
// by way of f32, so once rounded.
TEST(TensorTransfer, MakesEightBitWeights) {
  constexpr int64_t kRows = 5000, kCols = 8 * kFp8Run;
  std::mt19937 random(6);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(kRows * kCols);
  for (float& value : values) value = normal(random);
  const TemporaryFolder folder;
  folder.Write("model.safetensors", testing::SafetensorsOf({{"a", {{kRows, kCols}, values}}}));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  const StoredTensor& tensor = checkpoint.tensors().at("a");
  Stream stream({});
  for (const bool staged : {false, true}) {
    std::vector<uint8_t> bytes(values.size());
    std::vector<float> scales(kRows);
    std::vector<BFloat16> numbers(values.size());
    TensorTransfer transfer(staged);
    transfer.Add(tensor, DType::kF8E4M3, bytes.data(), {kCols, scales.data()});
    transfer.Add(tensor, DType::kBF16, numbers.data(), {.cols = kCols});
    transfer.Run(stream, {});
    for (int64_t row = 0; row < kRows; ++row) {
      const std::span<const float> of_row = std::span(values).subspan(row * kCols, kCols);
      ASSERT_EQ(scales[row], Fp8Scale(of_row));
      for (int64_t i = 0; i < kCols; ++i) {
        const float wanted = E4M3ToFloat(ToE4M3(of_row[i] / scales[row])) * scales[row];
        ASSERT_EQ(static_cast<float>(numbers[row * kCols + i]), wanted);
        ASSERT_EQ(E4M3ToFloat(bytes[row * kCols + i]) * scales[row], wanted);
      }
    }
  }
}

TEST(TensorTransfer, NamesTheRowThatEightBitsCannotHold) {
  std::vector<float> values(3 * kFp8Run, 1.0f);
  values[2 * kFp8Run + 5] = NAN;
  const TemporaryFolder folder;
  folder.Write("model.safetensors", testing::SafetensorsOf({{"a.b", {{3, kFp8Run}, values}}}));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  Stream stream({});
  std::vector<BFloat16> numbers(values.size());
  TensorTransfer transfer(false);
  transfer.Add(checkpoint.tensors().at("a.b"), DType::kBF16, numbers.data(), {.cols = kFp8Run});
  try {
    transfer.Run(stream, {});
    ADD_FAILURE() << "taken";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("model.safetensors: tensor a.b: row 2: wanted finite"),
              std::string::npos)
        << error.what();
  }
}

TEST(TensorTransfer, EndsWithWhatProgressThrowsOrAFileLacks) {
  const TemporaryFolder folder;
  folder.Write("model.safetensors",
               testing::SafetensorsOf({{"a", {{3'000'000}, std::vector<float>(3'000'000, 1)}}}));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  Stream stream({});
  std::vector<float> target(3'000'000);
  struct Abandoned {};
  TensorTransfer abandoned(false);
  abandoned.Add(checkpoint.tensors().at("a"), DType::kF32, target.data());
  EXPECT_THROW(abandoned.Run(stream, [](double) { throw Abandoned(); }), Abandoned);
  std::filesystem::resize_file(folder.path() / "model.safetensors", 5'000'000);
  for (const bool staged : {false, true}) {
    TensorTransfer cut(staged);
    cut.Add(checkpoint.tensors().at("a"), DType::kF32, target.data());
    EXPECT_THROW(cut.Run(stream, {}), std::runtime_error);
  }
}

}  // namespace
}  // namespace fla
