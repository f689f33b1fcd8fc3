// Checkpoints of earlier versions of the library and with 8-bit weights: the same logits as the
// golden checkpoint that they are made of.
#include "model/checkpoint_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "kernels/fp8.h"
#include "model/model.h"
#include "model/tensor_conversion.h"
#include "tests/testing/golden_checkpoint.h"

namespace fla {
namespace {

using ::testing::AllOf;
using testing::ErrorOf;
using testing::FloatTensor;
using testing::GoldenConfig;
using testing::GoldenTensors;
using ::testing::HasSubstr;
using testing::kGolden;
using testing::StoredBytes;
using testing::TemporaryFolder;
using Floats = std::map<std::string, FloatTensor>;
using Files = std::map<std::string, StoredBytes>;

Files Stored(const Floats& tensors) {
  Files stored;
  for (const auto& [name, tensor] : tensors) stored[name] = testing::Stored(tensor);
  return stored;
}

// Logits of a prompt.
std::vector<float> Logits(const std::filesystem::path& folder) {
  const auto model = Model::Load({.path = folder});
  StatePool pool(model->stream(), model->config(), 1);
  Batch batch;
  for (int i = 0; i < 40; ++i) batch.tokens.push_back(i * 37 % model->config().vocab_size);
  batch.slots = {pool.Acquire(model->stream())};
  batch.cu_seqlens = {0, 40};
  batch.positions = {0};
  batch.logits_rows = {39};
  const Matrix logits = model->Forward(batch, pool).logits;
  const auto* values = static_cast<const float*>(logits.data);
  return {values, values + logits.cols};
}

std::vector<float> Logits(const nlohmann::json& config, const Files& tensors) {
  const TemporaryFolder folder;
  folder.Write("config.json", config.dump());
  folder.Write("model.safetensors", testing::SafetensorsOfStored(tensors));
  return Logits(folder.path());
}

std::string LoadError(const nlohmann::json& config, const Files& tensors) {
  return ErrorOf([&] { Logits(config, tensors); });
}

void Rename(Files& tensors, const std::string& name, const std::string& old_name) {
  for (auto at = tensors.begin(); at != tensors.end();) {
    auto next = std::next(at);
    const size_t place = at->first.find(name);
    if (place != std::string::npos) {
      auto node = tensors.extract(at);
      node.key().replace(place, name.size(), old_name);
      tensors.insert(std::move(node));
    }
    at = next;
  }
}

void RenameKey(nlohmann::json& config, const std::string& name, const std::string& old_name) {
  config[old_name] = config.at(name);
  config.erase(name);
}

// gate_proj with the rows of up_proj below its own.
void FuseGates(Files& tensors) {
  for (auto& [name, gate] : tensors) {
    const size_t place = name.find("gate_proj");
    if (place == std::string::npos) continue;
    std::string up = name;
    up.replace(place, 9, "up_proj");
    gate.bytes += tensors.at(up).bytes;
    gate.shape[0] *= 2;
  }
  for (auto at = tensors.begin(); at != tensors.end();) {
    at = at->first.find("up_proj") != std::string::npos ? tensors.erase(at) : std::next(at);
  }
}

TEST(CheckpointLayout, ReadsTheConfigsAndTensorsOf2024) {
  for (const std::string name : {"gla", "retnet", "linear_attn-elu", "delta_net"}) {
    nlohmann::json config = GoldenConfig(name);
    Files tensors = Stored(GoldenTensors(name));
    RenameKey(config, "num_heads", "num_attention_heads");
    RenameKey(config, "norm_eps", "rms_norm_eps");
    if (config.contains("num_kv_heads")) RenameKey(config, "num_kv_heads", "num_key_value_heads");
    if (name != "linear_attn-elu") config["share_conv_kernel"] = false;
    Rename(tensors, "model.embeddings.", "model.embed_tokens.");
    FuseGates(tensors);
    EXPECT_EQ(Logits(config, tensors), Logits(kGolden / name)) << name;
  }
}

TEST(CheckpointLayout, ReadsNormsWhereNormFirstHadThem) {
  nlohmann::json config = GoldenConfig("delta_net");
  config["norm_first"] = true;
  Files tensors = Stored(GoldenTensors("delta_net"));
  Rename(tensors, ".attn_norm.", ".attn.norm.");
  Rename(tensors, ".mlp_norm.", ".mlp.norm.");
  FuseGates(tensors);
  EXPECT_EQ(Logits(config, tensors), Logits(kGolden / "delta_net"));
}

TEST(CheckpointLayout, ReadsTheOutputNormOfSpring2024) {
  Files tensors = Stored(GoldenTensors("delta_net"));
  Rename(tensors, ".attn.o_norm.", ".attn.norm.");
  EXPECT_EQ(Logits(GoldenConfig("delta_net"), tensors), Logits(kGolden / "delta_net"));
}

TEST(CheckpointLayout, PassesOverAParameterThatNothingRead) {
  Files tensors = Stored(GoldenTensors("gated_deltanet"));
  for (const char* layer : {"0", "1"}) {
    tensors["model.layers." + std::string(layer) + ".attn.D"] =
        testing::Stored({{2}, {1.0f, 1.0f}});
  }
  EXPECT_EQ(Logits(GoldenConfig("gated_deltanet"), tensors), Logits(kGolden / "gated_deltanet"));
}

TEST(CheckpointLayout, RefusesATensorUnderTwoNames) {
  Files tensors = Stored(GoldenTensors("gla"));
  tensors["model.embed_tokens.weight"] = tensors.at("model.embeddings.weight");
  EXPECT_THAT(LoadError(GoldenConfig("gla"), tensors),
              AllOf(HasSubstr("model.embed_tokens.weight"), HasSubstr("today's name")));
}

// ---- 8 bits.

bool IsQuantized(const std::string& name, const FloatTensor& tensor) {
  return tensor.shape.size() == 2 && name.find("_proj.weight") != std::string::npos;
}

struct Quantized {
  Files files;    // F8_E4M3 and scales
  Floats wanted;  // what they mean
};

std::string FloatBytes(const std::vector<float>& values) {
  return testing::Stored({{}, values}).bytes;
}

// Every projection's elements become 8-bit floats (in no special way: all values are as good), with
// a scale for each block of rows x cols; 0: the whole of it.
Quantized Quantize(const Floats& tensors, int64_t rows, int64_t cols, const std::string& suffix) {
  Quantized result;
  uint32_t random = 1;
  for (const auto& [name, tensor] : tensors) {
    FloatTensor& wanted = result.wanted[name] = tensor;
    if (!IsQuantized(name, tensor)) {
      result.files[name] = testing::Stored(tensor);
      continue;
    }
    const int64_t block_rows = rows == 0 ? tensor.shape[0] : rows;
    const int64_t block_cols = cols == 0 ? tensor.shape[1] : cols;
    const int64_t grid_rows = (tensor.shape[0] + block_rows - 1) / block_rows;
    const int64_t grid_cols = (tensor.shape[1] + block_cols - 1) / block_cols;
    std::vector<float> scales;
    for (int64_t i = 0; i < grid_rows * grid_cols; ++i) {
      scales.push_back(suffix.empty() ? 1.0f : 0.01f * static_cast<float>(1 + i % 7));
    }
    StoredBytes& stored = result.files[name] = {"F8_E4M3", tensor.shape, ""};
    for (int64_t i = 0; i < static_cast<int64_t>(tensor.values.size()); ++i) {
      random = random * 1664525u + 1013904223u;
      // Up to 15/8, either sign.
      const auto bits = static_cast<uint8_t>((random >> 24) % 0x40u | (random >> 16 & 0x80u));
      stored.bytes += static_cast<char>(bits);
      const int64_t block =
          i / tensor.shape[1] / block_rows * grid_cols + i % tensor.shape[1] / block_cols;
      wanted.values[i] = E4M3ToFloat(bits) * scales[block];
    }
    if (suffix.empty()) continue;
    std::vector<int64_t> shape = {grid_rows, grid_cols};
    if (rows == 0 && cols == 0) shape = {};
    result.files[name + suffix] = {"F32", shape, FloatBytes(scales)};
    result.files[name.substr(0, name.size() - 6) + "input_scale"] = {"F32", {}, FloatBytes({3})};
  }
  return result;
}

TEST(CheckpointLayout, ReadsF8WeightsWithAndWithoutScales) {
  struct Case {
    const char* what;
    int64_t rows, cols;
    const char* suffix;
    const char* quantization;
  };
  for (const Case& c : {
           Case{"plain", 0, 0, "", "null"},
           Case{"a tensor", 0, 0, "_scale", R"({"quant_method": "modelopt", "quant_algo": "FP8"})"},
           Case{"a row", 1, 0, "_scale",
                R"({"quant_method": "compressed-tensors", "format": "float-quantized"})"},
           Case{"a block", 16, 48, "_scale_inv",
                R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 48]})"},
           Case{"a block of 128", 128, 128, "_scale_inv", R"({"quant_method": "fp8"})"},
           Case{"no config", 128, 128, "_scale_inv", "null"},
       }) {
    const Quantized quantized = Quantize(GoldenTensors("gla"), c.rows, c.cols, c.suffix);
    nlohmann::json config = GoldenConfig("gla");
    config["quantization_config"] = nlohmann::json::parse(c.quantization);
    Files files = quantized.files;
    if (*c.suffix == '\0') {
      for (auto at = files.begin(); at != files.end();) {
        at = at->first.find("input_scale") != std::string::npos ? files.erase(at) : std::next(at);
      }
    }
    const std::vector<float> logits = Logits(config, files);
    EXPECT_EQ(logits, Logits(GoldenConfig("gla"), Stored(quantized.wanted))) << c.what;
    EXPECT_NE(logits, Logits(kGolden / "gla")) << c.what;
  }
}

TEST(CheckpointLayout, NamesWhatIsWrongWithScales) {
  nlohmann::json config = GoldenConfig("gla");
  config["quantization_config"] = {{"quant_method", "fp8"}};
  const Files good = Quantize(GoldenTensors("gla"), 128, 128, "_scale_inv").files;
  const std::string name = "model.layers.0.attn.q_proj.weight";
  const auto error = [&](const std::function<void(Files&)>& change) {
    Files files = good;
    change(files);
    return LoadError(config, files);
  };
  EXPECT_EQ(error([](Files&) {}), "(no error)");
  EXPECT_THAT(error([&](Files& files) { files.erase(name + "_scale_inv"); }),
              AllOf(HasSubstr(name + ": wanted a tensor"), HasSubstr("got none")));
  EXPECT_THAT(error([&](Files& files) { files[name + "_scale"] = files[name + "_scale_inv"]; }),
              HasSubstr("both"));
  EXPECT_THAT(error([&](Files& files) {
                files[name + "_scale_inv"] = {"F32", {3}, FloatBytes({1, 1, 1})};
              }),
              AllOf(HasSubstr("wanted a scale of shape [1]"), HasSubstr("got [3]")));
  EXPECT_THAT(error([&](Files& files) {
                files[name + "_scale_inv"] = {"F32", {}, FloatBytes({INFINITY})};
              }),
              HasSubstr("finite"));
  EXPECT_THAT(error([&](Files& files) {
                files["model.norm.weight_scale"] = {"F32", {}, FloatBytes({1})};
              }),
              AllOf(HasSubstr("model.norm.weight_scale"), HasSubstr("has no place")));
  for (const char* bad :
       {R"({"quant_method": "gptq"})", R"({"quant_method": "fp8", "fmt": "e5m2"})",
        R"({"quant_method": "fp8", "weight_block_size": [0, 1]})",
        R"({"quant_method": "fp8", "weight_block_size": 128})", "[]", "7"}) {
    config["quantization_config"] = nlohmann::json::parse(bad);
    EXPECT_THAT(LoadError(config, good), HasSubstr("config.json: quantization_config")) << bad;
  }
}

// The shapes of the format's four dtypes together in one model, two files.
TEST(CheckpointLayout, ReadsMixedDTypesInShards) {
  const Floats floats = GoldenTensors("kda");
  Floats wanted;
  Files one, two;
  nlohmann::json map;
  int number = 0;
  for (const auto& [name, tensor] : floats) {
    StoredBytes stored = testing::Stored(tensor);
    wanted[name] = tensor;
    if (++number % 3 == 0) {
      stored.dtype = "BF16";
      stored.bytes.clear();
      for (float& value : wanted[name].values) {
        const BFloat16 rounded(value);
        value = static_cast<float>(rounded);
        stored.bytes.append(reinterpret_cast<const char*>(&rounded.bits), 2);
      }
    } else if (number % 3 == 1) {
      stored.dtype = "F16";
      stored.bytes.clear();
      for (float& value : wanted[name].values) {
        // To the nearest that a half holds: by looking, which tests nothing of the reader.
        const auto bits = static_cast<uint16_t>((std::signbit(value) ? 0x8000 : 0) | 0x3400);
        value = HalfToFloat(bits);
        stored.bytes.append(reinterpret_cast<const char*>(&bits), 2);
      }
    }
    (number % 2 == 0 ? one : two)[name] = stored;
    map[name] = number % 2 == 0 ? "one.safetensors" : "two.safetensors";
  }
  const TemporaryFolder folder;
  folder.Write("config.json", GoldenConfig("kda").dump());
  folder.Write("one.safetensors", testing::SafetensorsOfStored(one));
  folder.Write("two.safetensors", testing::SafetensorsOfStored(two));
  folder.Write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  EXPECT_EQ(Logits(folder.path()), Logits(GoldenConfig("kda"), Stored(wanted)));
}

}  // namespace
}  // namespace fla
