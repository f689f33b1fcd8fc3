// From the tensors that a checkpoint has to those that a model asks for.
#pragma once

#include <filesystem>

#include "model/config.h"
#include "model/safetensors.h"

namespace fla {

// Opens a checkpoint for a model. Tensors that earlier versions of the library wrote get the names
// and shapes that it writes today; the scales of 8-bit weights (weight_scale, weight_scale_inv)
// move from tensors of their own into StoredTensor::scale. Throws what Checkpoint::Open throws, and
// std::runtime_error for scales that are missing, do not fit or are not finite.
Checkpoint OpenCheckpoint(const std::filesystem::path& folder, const ModelConfig& config);

// The second half of it.
void AdaptLayout(const ModelConfig& config, Checkpoint& checkpoint);

}  // namespace fla
