#include "model/checkpoint_layout.h"

#include <cmath>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "model/tensor_conversion.h"

namespace fla {
namespace {

using Tensors = Checkpoint::Tensors;

constexpr std::string_view kWeight = ".weight";
constexpr int64_t kMaxScaleElements = int64_t{1} << 26;  // of one scale tensor: they are few

[[noreturn]] void Fail(const StoredTensor& tensor, const std::string& name,
                       const std::string& what) {
  throw std::runtime_error(tensor.file() + ": tensor " + name + ": " + what);
}

// ---- What earlier versions of the library wrote.

struct OldTensor {
  std::string_view model_type;  // empty: any of the library's
  bool norm_first;              // only where the config says so
  std::string_view old_name;    // in a layer what follows "model.layers.N."
  std::string_view name;        // today's; empty: not used any more
};

constexpr OldTensor kOldTensors[] = {
    // Until April 2024.
    {"", false, "model.embed_tokens.weight", "model.embeddings.weight"},
    // May to June 2024.
    {"delta_net", false, "attn.norm.weight", "attn.o_norm.weight"},
    // June 2024 to February 2025: norm_first moved the norms into what reads them.
    {"delta_net", true, "attn.norm.weight", "attn_norm.weight"},
    {"delta_net", true, "mlp.norm.weight", "mlp_norm.weight"},
    // December 2024 to March 2025: a parameter that nothing read.
    {"gated_deltanet", false, "attn.D", ""},
};

// The part of a layer's tensor name after "model.layers.N.", or the whole name of another tensor.
std::string_view WithoutLayer(std::string_view name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (name.substr(0, kLayers.size()) != kLayers) return name;
  const size_t dot = name.find('.', kLayers.size());
  return dot == name.npos ? name : name.substr(dot + 1);
}

void RenameOldTensors(const ModelConfig& config, Tensors& tensors) {
  Tensors renamed;
  for (auto at = tensors.begin(); at != tensors.end();) {
    const std::string_view whole = at->first, suffix = WithoutLayer(whole);
    const OldTensor* rule = nullptr;
    for (const OldTensor& old : kOldTensors) {
      const bool applies = (old.model_type.empty() || old.model_type == config.model_type) &&
                           old.norm_first == config.norm_first;
      if (suffix == old.old_name && (applies || old.model_type.empty())) rule = &old;
    }
    if (rule == nullptr) {
      ++at;
      continue;
    }
    std::string name(whole.substr(0, whole.size() - suffix.size()));
    name += rule->name;
    auto node = tensors.extract(at++);
    if (rule->name.empty()) continue;
    if (tensors.count(name) != 0) {
      Fail(node.mapped(), node.key(), "stands there under today's name too, " + name);
    }
    node.key() = name;
    renamed.insert(std::move(node));
  }
  tensors.merge(renamed);
}

// Until February 2025 gate_proj held the rows of up_proj too, after its own.
void SplitGateProjections(const ModelConfig& config, Tensors& tensors) {
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".mlp.";
    const auto found = tensors.find(prefix + "gate_proj.weight");
    if (found == tensors.end()) return;
    StoredTensor& gate = found->second;
    const int64_t inner = config.intermediate_size;
    if (gate.shape.size() != 2 || gate.shape[0] != 2 * inner || gate.scale != nullptr ||
        tensors.count(prefix + "up_proj.weight") != 0) {
      return;
    }
    gate.shape[0] = inner;
    gate.elements /= 2;
    StoredTensor up = gate;
    up.offset += gate.bytes();
    tensors.emplace(prefix + "up_proj.weight", std::move(up));
  }
}

// ---- Scales of 8-bit weights.

std::vector<float> ReadFloats(const std::string& name, const StoredTensor& tensor) {
  if (tensor.elements > kMaxScaleElements) {
    Fail(tensor, name, "wanted a scale, got shape " + ShapeText(tensor.shape));
  }
  std::vector<float> values(static_cast<size_t>(tensor.elements));
  tensor.source->With(tensor.offset, tensor.bytes(), [&](std::span<const char> stored) {
    ConvertElements(tensor, 0, tensor.elements, stored.data(), DType::kF32,
                    reinterpret_cast<char*>(values.data()));
  });
  for (const float value : values) {
    if (!std::isfinite(value)) Fail(tensor, name, "wanted finite scales");
  }
  return values;
}

int64_t Blocks(int64_t size, int64_t block) { return (size + block - 1) / block; }

// One scale for a matrix [rows, cols], one for each row, or one for each block.
BlockScale ScaleOf(const ModelConfig& config, const StoredTensor& weight, const std::string& name,
                   const StoredTensor& stored) {
  const int64_t rows = weight.shape.empty() ? 1 : weight.shape[0], cols = weight.row_elements();
  BlockScale scale;
  scale.values = ReadFloats(name, stored);
  const std::vector<int64_t>& shape = stored.shape;
  const auto [block_rows, block_cols] = config.quantization.block;
  if (stored.elements == 1) {
    scale.rows = rows;
    scale.cols = cols;
  } else if (shape == std::vector<int64_t>{rows} || shape == std::vector<int64_t>{rows, 1}) {
    scale.cols = cols;
  } else if (shape == std::vector<int64_t>{Blocks(rows, block_rows), Blocks(cols, block_cols)}) {
    scale.rows = block_rows;
    scale.cols = block_cols;
    scale.grid_cols = shape[1];
  } else {
    Fail(stored, name,
         "wanted a scale of shape [1], [" + std::to_string(rows) + ", 1] or " +
             ShapeText({Blocks(rows, block_rows), Blocks(cols, block_cols)}) + " (blocks of " +
             ShapeText({block_rows, block_cols}) + ") for a weight of shape " +
             ShapeText(weight.shape) + ", got " + ShapeText(shape));
  }
  return scale;
}

// Both kinds multiply: the second is the inverse of what divided the weight when it was quantised.
constexpr std::string_view kScales[] = {"_scale", "_scale_inv"};
// Of activations, which are not quantised here; beside "X.weight".
constexpr std::string_view kActivationScales[] = {".input_scale", ".activation_scale"};

void AttachScales(const ModelConfig& config, Tensors& tensors) {
  for (auto& [name, tensor] : tensors) {
    if (tensor.dtype != StoredDType::kF8E4M3) continue;
    for (const std::string_view suffix : kScales) {
      const auto found = tensors.find(name + std::string(suffix));
      if (found == tensors.end()) continue;
      if (tensor.scale != nullptr) Fail(tensor, name, "has both a weight_scale and its inverse");
      tensor.scale =
          std::make_shared<const BlockScale>(ScaleOf(config, tensor, found->first, found->second));
    }
    if (tensor.scale == nullptr && config.quantization.scaled) {
      Fail(tensor, name,
           "wanted a tensor " + name + "_scale or " + name +
               "_scale_inv, since config.json has a quantization_config; got none");
    }
  }
  for (auto at = tensors.begin(); at != tensors.end();) {
    const auto belongs_to_f8 = [&](std::string_view suffix, std::string_view weight) {
      const std::string_view name = at->first;
      if (name.size() < suffix.size() || name.substr(name.size() - suffix.size()) != suffix) {
        return false;
      }
      const auto found = tensors.find(std::string(name.substr(0, name.size() - suffix.size())) +
                                      std::string(weight));
      return found != tensors.end() && found->second.dtype == StoredDType::kF8E4M3;
    };
    bool taken = false;
    for (const std::string_view suffix : kScales) taken |= belongs_to_f8(suffix, "");
    for (const std::string_view suffix : kActivationScales) taken |= belongs_to_f8(suffix, kWeight);
    at = taken ? tensors.erase(at) : std::next(at);
  }
}

}  // namespace

void AdaptLayout(const ModelConfig& config, Checkpoint& checkpoint) {
  AttachScales(config, checkpoint.tensors());
  RenameOldTensors(config, checkpoint.tensors());
  SplitGateProjections(config, checkpoint.tensors());
}

Checkpoint OpenCheckpoint(const std::filesystem::path& folder, const ModelConfig& config) {
  Checkpoint checkpoint = Checkpoint::Open(folder);
  AdaptLayout(config, checkpoint);
  return checkpoint;
}

}  // namespace fla
