// The models that can be served: one table row each, from model_type to the mixer it describes.
#pragma once

#include <span>
#include <string_view>

#include "model/config_reader.h"
#include "model/mixer_spec.h"

namespace fla {

struct Architecture {
  std::string_view model_type;  // as in config.json
  std::string_view name;        // as people say it
  // Defaults of the library's config class where they differ between models.
  int num_layers;
  int hidden_ratio;
  // Reads the mixer's options from config.json; throws what ConfigReader throws.
  MixerSpec (*read_mixer)(const ConfigReader& config, int hidden_size);
  // Edifice's: what a layer's tensors begin with, "fla_block". Its config.json has other keys.
  std::string_view block_name = {};
};

std::span<const Architecture> Architectures();

}  // namespace fla
