// From a client's EmbedRequest to validated requests. Pure, as server/translate.h.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "fla/v1/inference.pb.h"
#include "server/request.h"
#include "server/translate.h"

namespace fla {

// One request an input, complete but for id, received, deadline, cancelled and sink; `choice` is
// the input's number. INVALID_ARGUMENT names the field, the bound and the value. An answer larger
// than max_embed_bytes is refused here, before anything runs.
absl::StatusOr<std::vector<Request>> Translate(const v1::EmbedRequest& message,
                                               const RequestContext& context);

}  // namespace fla
