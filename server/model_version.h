// What tells one version of a model from another: the identity of its files.
#pragma once

#include <filesystem>
#include <string>

#include "server/model_options.h"

namespace fla {

// Twelve hex digits that change whenever what a model computes may: name, size, inode and time of
// change of the checkpoint's files (symbolic links followed), device and dtypes. Reads no contents.
// The same files give the same version again, after a restart too. Throws std::runtime_error
// "folder: what" where the folder cannot be read.
std::string ModelVersion(const ModelOptions& options);

// What a loaded model depends on: the version and what else cannot be changed without a new load
// (path, slots, max_batch_tokens, max_prefill_tokens). For comparison only.
std::string LoadKey(const ModelOptions& options, const std::string& version);

}  // namespace fla
