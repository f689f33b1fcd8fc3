// From a client's protobuf messages to validated requests. Pure: no clock, no randomness, no I/O.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fla/v1/inference.pb.h"
#include "model/chat/chat_templates.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "server/limits.h"
#include "server/request.h"

namespace fla {

// What a request is checked against.
struct RequestContext {
  const ModelConfig& config;
  const Tokenizer& tokenizer;
  const Limits& limits;
  GenerationDefaults sampling;                // for what a request does not say
  uint64_t default_seed = 0;                  // for a request that brings none; 64 random bits
  const chat::ChatTemplates* chat = nullptr;  // null: the model has none
};

// The choices of a request, `n` of them, complete but for id, received, deadline, cancelled and
// sink. Only the first asks for prompt_logprobs. INVALID_ARGUMENT names the field, the bound and
// the value.
absl::StatusOr<std::vector<Request>> Translate(const v1::GenerateRequest& message,
                                               const RequestContext& context);

// The tokens of a client's text. INVALID_ARGUMENT where it is no UTF-8 or the tokenizer cannot do
// it. `field` names the text.
absl::StatusOr<std::vector<int>> EncodeText(const std::string& field, const std::string& text,
                                            const Tokenizer& tokenizer,
                                            bool add_special_tokens = true);

// The prompt that a text or token ids are: 1 to max_prompt_tokens tokens of the model's vocabulary.
// INVALID_ARGUMENT names `field`.
absl::StatusOr<std::vector<int>> PromptOfText(const std::string& field, const std::string& text,
                                              const RequestContext& context,
                                              bool add_special_tokens = true);
absl::StatusOr<std::vector<int>> PromptOfIds(const std::string& field, const v1::TokenIds& ids,
                                             const RequestContext& context);

}  // namespace fla
