#include "server/limits.h"

#include <algorithm>

#include "kernels/sampling.h"

namespace fla {

Limits ReadLimits(ConfigSection section) {
  constexpr int64_t kMost = 1 << 30;
  Limits limits;
  section.Read("max_prompt_tokens", limits.max_prompt_tokens, 1, kMost);
  section.Read("max_new_tokens", limits.max_new_tokens, 0, kMost);
  limits.default_max_new_tokens = std::min(limits.default_max_new_tokens, limits.max_new_tokens);
  section.Read("default_max_new_tokens", limits.default_max_new_tokens, 0, limits.max_new_tokens);
  section.Read("max_chat_messages", limits.max_chat_messages, 1, 1 << 20);
  section.Read("max_chat_bytes", limits.max_chat_bytes, 1, kMost);
  section.Read("max_stop_strings", limits.max_stop_strings, 0, 1024);
  section.Read("max_stop_string_bytes", limits.max_stop_string_bytes, 1, 65536);
  section.Read("max_stop_token_ids", limits.max_stop_token_ids, 0, 65536);
  section.Read("max_logprobs", limits.max_logprobs, 0, kMaxTopLogprobs);
  section.Read("max_prompt_logprob_entries", limits.max_prompt_logprob_entries, 0, kMost);
  section.Read("max_logit_bias", limits.max_logit_bias, 0, 1 << 20);
  // With a day of aging each, still far from the clock's end.
  section.Read("max_priority", limits.max_priority, 0, 10000);
  section.Read("max_message_bytes", limits.max_message_bytes, 1024, kMost);

  section.Read("max_concurrent_streams", limits.max_concurrent_streams, 1, 1 << 20);
  section.Read("max_queued_requests", limits.max_queued_requests, 1, 1 << 20);
  section.Read("max_queued_tokens", limits.max_queued_tokens, 1, int64_t{1} << 40);
  // More choices or inputs than the queue holds could never be taken.
  limits.max_n = std::min(limits.max_n, limits.max_queued_requests);
  section.Read("max_n", limits.max_n, 1, std::min(1024, limits.max_queued_requests));
  limits.max_embed_inputs = std::min(limits.max_embed_inputs, limits.max_queued_requests);
  section.Read("max_embed_inputs", limits.max_embed_inputs, 1, limits.max_queued_requests);
  section.Read("max_embed_bytes", limits.max_embed_bytes, 4, kMost);
  section.Read("max_unread_events", limits.max_unread_events, 1, 1 << 20);

  section.Read("max_request_seconds", limits.max_request_seconds, 0.001, 1e7);
  section.Read("priority_aging_seconds", limits.priority_aging_seconds, 0.0, 86400.0);
  section.RefuseOthers();
  return limits;
}

}  // namespace fla
