// The golden checkpoints, to be changed and written again.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "model/model.h"
#include "model/safetensors.h"
#include "tests/testing/checkpoint_writer.h"
#include "tests/testing/temporary_folder.h"
#include "tests/testing/throws.h"

namespace fla::testing {

inline const std::filesystem::path kGolden = std::filesystem::path(FLA_SOURCE_DIR) / "tests/golden";

inline nlohmann::json GoldenConfig(const std::string& name) {
  std::ifstream stream(kGolden / name / "config.json");
  return nlohmann::json::parse(stream);
}

// They are stored in f32.
inline std::map<std::string, FloatTensor> GoldenTensors(const std::string& name) {
  const Checkpoint checkpoint = Checkpoint::Open(kGolden / name);
  std::map<std::string, FloatTensor> tensors;
  for (const auto& [key, tensor] : checkpoint.tensors()) {
    FloatTensor& copy = tensors[key];
    copy.shape = tensor.shape;
    copy.values.resize(tensor.elements);
    tensor.source->Read(tensor.offset, {reinterpret_cast<char*>(copy.values.data()),
                                        tensor.elements * sizeof(float)});
  }
  return tensors;
}

// What loading a checkpoint throws.
inline std::string LoadError(const std::map<std::string, FloatTensor>& tensors,
                             const nlohmann::json& config) {
  const TemporaryFolder folder;
  folder.Write("config.json", config.dump());
  folder.Write("model.safetensors", SafetensorsOf(tensors));
  return ErrorOf([&] { Model::Load({.path = folder.path()}); });
}

}  // namespace fla::testing
