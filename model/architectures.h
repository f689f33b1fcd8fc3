// The models that can be served: one table row each, from model_type to the mixer it describes.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "model/config_reader.h"
#include "model/mixer_spec.h"

namespace fla {

// The values of an option that is a flag.
inline constexpr std::string_view kFlagValues = "true, false";

// An option of the library that changes the maths and cannot be served.
struct RefusedOption {
  std::string_view model_type;  // empty: of all models
  std::string_view key;
  std::string_view served;  // the one value that is no obstacle: "null", "false" or "true"
  std::string_view reason;
  std::string_view only_with = {};  // a flag without which the key does not matter
};

struct Architecture {
  std::string_view model_type;  // as in config.json
  std::string_view name;        // as people say it
  // Defaults of the library's config class where they differ between models.
  int num_layers;
  int hidden_ratio;
  // The keys of this model alone.
  std::span<const ConfigOption> options;
  // Reads the mixer's options from config.json; throws what ConfigReader throws.
  MixerSpec (*read_mixer)(const ConfigReader& config, int hidden_size);
  // Edifice's: what a layer's tensors begin with, "fla_block". Its config.json has other keys.
  std::string_view block_name = {};
};

std::span<const Architecture> Architectures();
// As read from a config.json without options.
MixerSpec DefaultMixer(const Architecture& architecture);

// The keys that are read whatever the model, and those that are read of all but Edifice's.
std::span<const ConfigOption> CommonOptions();
std::span<const ConfigOption> LibraryOptions();
// All that are read of one model.
std::vector<std::span<const ConfigOption>> OptionsOf(const Architecture& architecture);
std::span<const RefusedOption> RefusedOptions();
// Keys that configs have and that change nothing here: of training and of the library's kernels.
std::span<const std::string_view> IgnoredKeys();

}  // namespace fla
