// Bounds on one request, and on how many there may be at once: what a server takes on is known
// before it starts. docs/operations.md says what a client is told when it meets one.
#pragma once

#include <cstdint>

#include "server/config_section.h"

namespace fla {

struct Limits {
  // Of one request; INVALID_ARGUMENT beyond.
  int max_prompt_tokens = 131072;
  int max_new_tokens = 32768;
  int default_max_new_tokens = 256;  // where a request says nothing
  int max_chat_messages = 1024;
  int max_chat_bytes = 4 * 1024 * 1024;  // of the text that the template makes of a chat
  int max_n = 16;
  int max_stop_strings = 16;
  int max_stop_string_bytes = 256;
  int max_stop_token_ids = 64;
  int max_logprobs = 20;  // alternatives a token
  // Entries of prompt_logprobs: tokens of the prompt, times alternatives and the token itself.
  int max_prompt_logprob_entries = 1 << 20;
  int max_logit_bias = 1024;
  int max_embed_inputs = 256;
  // Of the vectors of one answer of Embed: fits, with what is around them, into the 4 MiB that gRPC
  // clients receive unless they are told otherwise.
  int max_embed_bytes = 4000000;
  int max_priority = 100;  // and at least minus that
  int max_message_bytes = 4 * 1024 * 1024;

  // Of all that there is; RESOURCE_EXHAUSTED beyond.
  int max_concurrent_streams = 4096;    // calls that generate or embed
  int max_queued_requests = 256;        // choices and inputs, a model
  int64_t max_queued_tokens = 1 << 20;  // of prompts that wait, a model
  int max_unread_events = 4096;         // that wait for the client of a stream

  // Of time; DEADLINE_EXCEEDED beyond.
  double max_request_seconds = 3600.0;  // from a request's arrival to its end

  // A request that waits this long overtakes those of one priority better that come later.
  double priority_aging_seconds = 10.0;
};

// Throws as ConfigSection does.
Limits ReadLimits(ConfigSection section);

}  // namespace fla
