#include "server/translate.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "server/chat_prompt.h"
#include "server/field_checks.h"

namespace fla {
namespace {

// An interval of the real numbers; `open_below` leaves `least` itself out.
struct Interval {
  double least;
  double most;
  bool open_below = false;
};

absl::Status CheckInterval(const std::string& field, float value, Interval interval) {
  const bool above = interval.open_below ? value > interval.least : value >= interval.least;
  if (std::isfinite(value) && above && value <= interval.most) return absl::OkStatus();
  const std::string wanted =
      std::isfinite(interval.most)
          ? absl::StrCat("a number in ", interval.open_below ? "(" : "[", interval.least, ", ",
                         interval.most, "]")
          : absl::StrCat("a finite number ", interval.open_below ? "> " : ">= ", interval.least);
  return Invalid(field, wanted, absl::StrCat(value));
}

absl::Status CheckLength(const std::string& field, size_t tokens, const Limits& limits) {
  if (tokens >= 1 && tokens <= static_cast<size_t>(limits.max_prompt_tokens)) {
    return absl::OkStatus();
  }
  return Invalid(field, absl::StrCat("1 to ", limits.max_prompt_tokens, " tokens"),
                 absl::StrCat(tokens));
}

absl::StatusOr<std::vector<int>> PromptOf(const v1::GenerateRequest& message,
                                          const RequestContext& context) {
  switch (message.prompt_case()) {
    case v1::GenerateRequest::kText:
      return PromptOfText("text", message.text(), context);
    case v1::GenerateRequest::kTokenIds:
      return PromptOfIds("token_ids", message.token_ids(), context);
    case v1::GenerateRequest::kChat:
      return PromptOfChat(message.chat(), context);
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return Invalid("prompt", "text, token_ids or chat", "none");
}

absl::Status ReadSampling(const v1::SamplingParams& message, const RequestContext& context,
                          SamplingOptions& sampling) {
  constexpr double kUnbounded = INFINITY;
  const GenerationDefaults& defaults = context.sampling;
  const auto read = [](const char* field, bool is_set, float value,
                       const std::optional<float>& model_default, Interval interval,
                       float& target) {
    if (is_set) {
      if (absl::Status status = CheckInterval(std::string("sampling.") + field, value, interval);
          !status.ok()) {
        return status;
      }
      target = value;
    } else if (model_default) {
      target = *model_default;
    }
    return absl::OkStatus();
  };
  absl::Status status = absl::OkStatus();
  status.Update(read("temperature", message.has_temperature(), message.temperature(),
                     defaults.temperature, {0, kUnbounded}, sampling.temperature));
  status.Update(read("top_p", message.has_top_p(), message.top_p(), defaults.top_p, {0, 1, true},
                     sampling.top_p));
  status.Update(
      read("min_p", message.has_min_p(), message.min_p(), defaults.min_p, {0, 1}, sampling.min_p));
  status.Update(read("repetition_penalty", message.has_repetition_penalty(),
                     message.repetition_penalty(), defaults.repetition_penalty,
                     {0, kUnbounded, true}, sampling.repetition_penalty));
  status.Update(read("presence_penalty", message.has_presence_penalty(), message.presence_penalty(),
                     std::nullopt, {-2, 2}, sampling.presence_penalty));
  status.Update(read("frequency_penalty", message.has_frequency_penalty(),
                     message.frequency_penalty(), std::nullopt, {-2, 2},
                     sampling.frequency_penalty));
  // So close to 0 that the draw would overflow; the most probable token has all the weight anyway.
  if (sampling.temperature < 1e-6f) sampling.temperature = 0;
  if (message.has_top_k()) {
    status.Update(CheckRange("sampling.top_k", message.top_k(), 0, INT32_MAX));
    sampling.top_k = message.top_k();
  } else if (defaults.top_k) {
    sampling.top_k = *defaults.top_k;
  }
  sampling.seed = message.has_seed() ? message.seed() : context.default_seed;

  status.Update(
      CheckCount("sampling.logit_bias", message.logit_bias_size(), context.limits.max_logit_bias));
  if (!status.ok()) return status;
  for (const auto& [token, bias] : message.logit_bias()) {
    if (token < 0 || token >= context.config.vocab_size) {
      return Invalid("sampling.logit_bias",
                     absl::StrCat("token ids from 0 to ", context.config.vocab_size - 1),
                     absl::StrCat(token));
    }
    status.Update(
        CheckInterval(absl::StrCat("sampling.logit_bias[", token, "]"), bias, {-100, 100}));
    sampling.logit_bias.emplace_back(token, bias);
  }
  // A protobuf map has no order of its own.
  std::sort(sampling.logit_bias.begin(), sampling.logit_bias.end());
  return status;
}

absl::Status ReadStops(const v1::GenerateRequest& message, const RequestContext& context,
                       Request& request) {
  const Limits& limits = context.limits;
  absl::Status status =
      CheckCount("stop_strings", message.stop_strings_size(), limits.max_stop_strings);
  status.Update(
      CheckCount("stop_token_ids", message.stop_token_ids_size(), limits.max_stop_token_ids));
  if (!status.ok()) return status;
  for (int i = 0; i < message.stop_strings_size(); ++i) {
    const std::string field = absl::StrCat("stop_strings[", i, "]");
    const std::string& text = message.stop_strings(i);
    if (text.empty() || text.size() > static_cast<size_t>(limits.max_stop_string_bytes)) {
      return Invalid(field, absl::StrCat("1 to ", limits.max_stop_string_bytes, " bytes"),
                     absl::StrCat(text.size()));
    }
    if (status = CheckUtf8(field, text); !status.ok()) return status;
    request.stop_strings.push_back(text);
  }
  request.stop_tokens.assign(message.stop_token_ids().begin(), message.stop_token_ids().end());
  return CheckTokenIds("stop_token_ids", message.stop_token_ids().data(),
                       message.stop_token_ids_size(), context.config.vocab_size);
}

}  // namespace

absl::StatusOr<std::vector<int>> EncodeText(const std::string& field, const std::string& text,
                                            const Tokenizer& tokenizer, bool add_special_tokens) {
  if (absl::Status status = CheckUtf8(field, text); !status.ok()) return status;
  try {
    return tokenizer.Encode(text, add_special_tokens);
  } catch (const std::runtime_error& error) {
    return Invalid(field, "text that the model's tokenizer can do", error.what());
  }
}

absl::StatusOr<std::vector<int>> PromptOfText(const std::string& field, const std::string& text,
                                              const RequestContext& context,
                                              bool add_special_tokens) {
  absl::StatusOr<std::vector<int>> tokens =
      EncodeText(field, text, context.tokenizer, add_special_tokens);
  if (!tokens.ok()) return tokens;
  // A tokenizer may know more tokens than the model has rows for.
  absl::Status status = CheckTokenIds(field + ": token", tokens->data(),
                                      static_cast<int>(tokens->size()), context.config.vocab_size);
  status.Update(CheckLength(field, tokens->size(), context.limits));
  if (!status.ok()) return status;
  return tokens;
}

absl::StatusOr<std::vector<int>> PromptOfIds(const std::string& field, const v1::TokenIds& message,
                                             const RequestContext& context) {
  const auto& ids = message.ids();
  absl::Status status = CheckTokenIds(field, ids.data(), ids.size(), context.config.vocab_size);
  status.Update(CheckLength(field, static_cast<size_t>(ids.size()), context.limits));
  if (!status.ok()) return status;
  return std::vector<int>(ids.begin(), ids.end());
}

absl::StatusOr<std::vector<Request>> Translate(const v1::GenerateRequest& message,
                                               const RequestContext& context) {
  const Limits& limits = context.limits;
  Request request;
  request.client_request_id = message.request_id();

  const int n = message.has_n() ? message.n() : 1;
  request.max_new_tokens =
      message.has_max_new_tokens() ? message.max_new_tokens() : limits.default_max_new_tokens;
  request.min_new_tokens = message.min_new_tokens();
  request.include_stop_strings = message.include_stop_strings();
  request.ignore_eos = message.ignore_eos();
  request.priority = message.priority();

  absl::Status status = CheckRequestId(message.request_id());
  status.Update(CheckRange("n", n, 1, limits.max_n));
  status.Update(
      CheckRange("priority", message.priority(), -limits.max_priority, limits.max_priority));
  status.Update(CheckRange("max_new_tokens", request.max_new_tokens, 0, limits.max_new_tokens));
  status.Update(CheckRange("min_new_tokens", request.min_new_tokens, 0, request.max_new_tokens));
  if (message.has_logprobs()) {
    status.Update(CheckRange("logprobs", message.logprobs(), 0, limits.max_logprobs));
    request.logprobs = message.logprobs();
  }
  if (message.has_prompt_logprobs()) {
    status.Update(CheckRange("prompt_logprobs", message.prompt_logprobs(), 0, limits.max_logprobs));
    request.prompt_logprobs = message.prompt_logprobs();
  }
  if (status.ok() && request.max_new_tokens == 0 && !message.has_prompt_logprobs()) {
    status = Invalid("max_new_tokens", "at least 1 where no prompt_logprobs are asked for", "0");
  }
  status.Update(ReadSampling(message.sampling(), context, request.sampling));
  status.Update(ReadStops(message, context, request));
  if (!status.ok()) return status;

  // Last, because it costs most.
  absl::StatusOr<std::vector<int>> prompt = PromptOf(message, context);
  if (!prompt.ok()) return prompt.status();
  request.prompt = *std::move(prompt);
  const int64_t entries =
      static_cast<int64_t>(request.prompt.size()) * (request.prompt_logprobs + 1);
  if (entries > limits.max_prompt_logprob_entries) {
    return Invalid("prompt_logprobs",
                   absl::StrCat("at most ", limits.max_prompt_logprob_entries,
                                " entries (tokens of the prompt, times 1 + prompt_logprobs)"),
                   absl::StrCat(entries));
  }

  std::vector<Request> choices(n, request);
  for (int i = 0; i < n; ++i) {
    choices[i].choice = i;
    choices[i].sampling.seed += static_cast<uint64_t>(i);
    if (i > 0) choices[i].prompt_logprobs = -1;
  }
  return choices;
}

}  // namespace fla
