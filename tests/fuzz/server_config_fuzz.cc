// Any config file either gives options, all within their bounds, or is refused with an exception;
// so is any file of API keys. The first byte says which of the two the rest is.
#include <stdexcept>

#include "server/api_keys.h"
#include "server/options.h"
#include "tests/fuzz/input_folder.h"

namespace {

using fla::fuzz::Require;

void ReadConfig(std::string_view text) {
  const fla::ServerOptions options = fla::ParseServerOptions(text, "/etc/fla/config.json");
  Require(!options.models.empty(), "no model");
  bool has_default = false;
  for (const fla::ModelOptions& model : options.models) {
    has_default |= model.name == options.default_model;
    Require(!model.name.empty() && model.path.is_absolute(), "a model's name and path");
    Require(model.slots >= 0 && model.max_batch_tokens >= model.slots, "a model's slots");
    Require(model.max_prefill_tokens == 0 || model.max_prefill_tokens >= model.max_batch_tokens,
            "a model's batches");
  }
  Require(has_default, "the default model is none of them");
  const fla::Limits& limits = options.limits;
  Require(limits.max_n >= 1 && limits.max_n <= limits.max_queued_requests, "max_n");
  Require(limits.default_max_new_tokens <= limits.max_new_tokens, "default_max_new_tokens");
  Require(limits.max_request_seconds > 0 && limits.priority_aging_seconds >= 0, "times");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text = fla::fuzz::BytesOf(data + 1, size - 1);
  try {
    if (data[0] % 2 == 0) {
      ReadConfig(text);
    } else {
      const fla::ApiKeys keys = fla::ApiKeys::Parse(text, "keys");
      Require(keys.Find(text) == nullptr, "a file is its own key");
    }
  } catch (const std::runtime_error&) {
  }
  return 0;
}
