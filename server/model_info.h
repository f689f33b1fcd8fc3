// A table of models as the messages of Control.ListModels.
#pragma once

#include "fla/v1/control.pb.h"
#include "server/model_table.h"

namespace fla {

// A version that is loaded.
void Describe(const ModelOptions& options, const ServedModel& served, v1::ModelState state,
              v1::ModelInfo& info);

// All versions of all models: those of the configuration in its order, each followed by its other
// versions; then what is of no model of the configuration (any more, or yet).
void Describe(const ModelTable& table, v1::ListModelsResponse& response);

// Leaves out why something failed, which tells of the server's files.
void HideReasons(v1::ListModelsResponse& response);

}  // namespace fla
