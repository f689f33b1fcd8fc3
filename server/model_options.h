// The `models` part of the config file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "model/config.h"

namespace fla {

class ConfigSection;

// What to do where a new version of a model and the old one do not fit in memory together.
enum class WhenFull {
  kRefuse,         // the old version goes on serving
  kDrainThenLoad,  // the old one finishes what it runs and goes; requests wait meanwhile
};

struct ModelOptions {
  std::string name;                   // what clients say in `model`
  std::vector<std::string> aliases;   // what they may say instead
  std::filesystem::path path;         // a checkpoint folder
  std::filesystem::path root;         // model_root, that no file of it may lead out of; empty: none
  std::string device = "auto";        // as for ParseDevice
  DType dtype = DType::kF32;          // of weights and activations: f32 or bf16
  std::optional<DType> weight_dtype;  // of the layers' projections: dtype, or fp8_e4m3 beside bf16
  DType state_dtype = DType::kF32;    // of the recurrent states: f32, or bf16 beside bf16
  int state_replay = 0;               // a state is written every so many steps; 0: every one
  int slots = 0;                      // 0: 64 on a CPU, as many as fit on a GPU
  int max_batch_tokens = 0;           // 0: 512 on a CPU, 4096 on a GPU
  int max_prefill_tokens = 0;         // 0: max_batch_tokens; 16384 on a GPU where that is 0 too
  GenerationDefaults sampling;        // goes before the checkpoint's generation_config.json
  bool preload = true;                // else loaded at its first use
  bool pinned = true;                 // else unloaded when another model needs its memory
  WhenFull when_full = WhenFull::kRefuse;
};

// Where a config file's model paths begin and end.
struct ModelFolders {
  std::filesystem::path config;  // the config file's folder: relative paths are of it
  std::filesystem::path root;    // model_root; empty: none. Relative paths are of it instead, and
                                 // none may lead out of it
};

// Throws std::runtime_error that names a file of the model's folder which, by way of symbolic
// links, lies outside its root.
void RequireWithinRoot(const ModelOptions& model);

// Reads one element of `models`. Looks at the file system for symbolic links out of the root only.
ModelOptions ReadModelOptions(ConfigSection section, const ModelFolders& folders);

}  // namespace fla
