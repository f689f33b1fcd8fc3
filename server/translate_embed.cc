#include "server/translate_embed.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/field_checks.h"

namespace fla {
namespace {

static_assert(std::endian::native == std::endian::little, "Vectors are copied as they are");

absl::StatusOr<Pooling> PoolingOf(const v1::EmbedRequest& message, const ModelConfig& config) {
  switch (message.pooling()) {
    case v1::POOLING_UNSPECIFIED:
      return config.pooling;
    case v1::POOLING_LAST:
      return Pooling::kLast;
    case v1::POOLING_MEAN:
      return Pooling::kMean;
    case v1::POOLING_ALL:
      return Pooling::kAll;
    default:
      return Invalid("pooling", "LAST, MEAN or ALL", absl::StrCat(message.pooling()));
  }
}

// Reads a sequence of vectors into `request`.
absl::Status ReadVectors(const std::string& field, const v1::Vectors& message,
                         const RequestContext& context, Request& request) {
  const int64_t dim = context.config.embed_dim;
  if (dim == 0) {
    return Invalid(field,
                   absl::StrCat("text or token_ids, for ", context.config.model_type,
                                " models take no vectors"),
                   "vectors");
  }
  absl::Status status =
      CheckRange(field + ".rows", message.rows(), 1, context.limits.max_prompt_tokens);
  if (message.columns() != dim) {
    status.Update(Invalid(field + ".columns", absl::StrCat(dim, ", the model's embed_dim"),
                          absl::StrCat(message.columns())));
  }
  if (!status.ok()) return status;
  const std::string& values = message.values();
  const size_t count = static_cast<size_t>(message.rows() * dim);
  if (values.size() != count * sizeof(float)) {
    return Invalid(
        field + ".values",
        absl::StrCat(message.rows(), " x ", dim, " floats, ", count * sizeof(float), " bytes"),
        absl::StrCat(values.size()));
  }
  request.vectors.resize(count);
  std::memcpy(request.vectors.data(), values.data(), values.size());
  const auto bad = std::find_if(request.vectors.begin(), request.vectors.end(),
                                [](float value) { return !std::isfinite(value); });
  if (bad != request.vectors.end()) {
    const int64_t at = bad - request.vectors.begin();
    return Invalid(field + ".values", "finite numbers",
                   absl::StrCat(*bad, " at row ", at / dim, ", column ", at % dim));
  }
  request.prompt.assign(message.rows(), 0);
  return absl::OkStatus();
}

absl::Status ReadInput(const std::string& field, const v1::EmbedInput& input,
                       const RequestContext& context, Request& request) {
  absl::StatusOr<std::vector<int>> prompt;
  switch (input.input_case()) {
    case v1::EmbedInput::kText:
      prompt = PromptOfText(field + ".text", input.text(), context);
      break;
    case v1::EmbedInput::kTokenIds:
      prompt = PromptOfIds(field + ".token_ids", input.token_ids(), context);
      break;
    case v1::EmbedInput::kVectors:
      return ReadVectors(field + ".vectors", input.vectors(), context, request);
    case v1::EmbedInput::INPUT_NOT_SET:
      return Invalid(field, "text, token_ids or vectors", "none of them");
  }
  if (!prompt.ok()) return prompt.status();
  request.prompt = *std::move(prompt);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Request>> Translate(const v1::EmbedRequest& message,
                                               const RequestContext& context) {
  const Limits& limits = context.limits;
  const absl::StatusOr<Pooling> pooling = PoolingOf(message, context.config);
  absl::Status status = CheckRequestId(message.request_id());
  status.Update(
      CheckRange("priority", message.priority(), -limits.max_priority, limits.max_priority));
  status.Update(pooling.status());
  if (message.inputs_size() < 1 || message.inputs_size() > limits.max_embed_inputs) {
    status.Update(Invalid("inputs", absl::StrCat("1 to ", limits.max_embed_inputs, " entries"),
                          absl::StrCat(message.inputs_size())));
  }
  if (!status.ok()) return status;

  const int64_t vector_bytes = int64_t{context.config.hidden_size} * int64_t{sizeof(float)};
  int64_t vectors = 0;
  std::vector<Request> requests(message.inputs_size());
  for (int i = 0; i < message.inputs_size(); ++i) {
    Request& request = requests[i];
    request.choice = i;
    request.client_request_id = message.request_id();
    request.priority = message.priority();
    request.pooling = *pooling;
    status = ReadInput(absl::StrCat("inputs[", i, "]"), message.inputs(i), context, request);
    if (!status.ok()) return status;
    vectors += *pooling == Pooling::kAll ? static_cast<int64_t>(request.prompt.size()) : 1;
    if (vectors * vector_bytes > limits.max_embed_bytes) {
      return Invalid(absl::StrCat("inputs[", i, "]"),
                     absl::StrCat("an answer of at most ", limits.max_embed_bytes,
                                  " bytes, that is ", limits.max_embed_bytes / vector_bytes,
                                  " vectors of ", vector_bytes, " bytes"),
                     absl::StrCat(vectors, " with this input"));
    }
  }
  return requests;
}

}  // namespace fla
