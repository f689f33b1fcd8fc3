// What `fla-server --validate` says of a checkpoint folder.
#pragma once

#include <string>

#include "model/checkpoint_report.h"

namespace fla {

// For people: a line a fact, then notes and problems.
std::string ReportText(const CheckpointReport& report);
// For programs: one JSON object. What is not known is null.
std::string ReportJson(const CheckpointReport& report);

}  // namespace fla
