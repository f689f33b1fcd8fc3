// From a client's conversation to a prompt, by the model's chat template.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "fla/v1/inference.pb.h"
#include "server/translate.h"

namespace fla {

// INVALID_ARGUMENT "chat...: wanted .., got .." for what is out of its bounds, a model without a
// template and a template that refuses or fails.
absl::StatusOr<std::vector<int>> PromptOfChat(const v1::Chat& message,
                                              const RequestContext& context);

}  // namespace fla
