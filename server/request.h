// What a client asked for, validated, and what it is told: the language between the gRPC services
// and the engine.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "model/config.h"

namespace fla {

using Clock = std::chrono::steady_clock;

struct SamplingOptions {
  float temperature = 1.0f;  // 0: greedy
  int top_k = 0;             // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  std::vector<std::pair<int, float>> logit_bias;
};

enum class FinishReason { kStop, kLength, kCancelled, kDeadline, kEmbedded };

struct TokenLogprob {
  int token = 0;
  float logprob = 0.0f;
};

struct LogprobEntry {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // most probable first
};

// Moments in the life of a request; unset ones are at the epoch.
struct RequestTimes {
  Clock::time_point received;
  Clock::time_point admitted;
  Clock::time_point first_token;
  Clock::time_point last_token;
  Clock::time_point finished;
  Clock::duration longest_gap{};  // between two tokens
};

struct Finish {
  FinishReason reason = FinishReason::kStop;
  std::string stop_string;  // that ended it, else empty
  int stop_token = -1;      // of the request's stop_tokens, that ended it, else -1
  // Not OK: the request failed inside the server and has no result (INTERNAL), or it was turned
  // away after it was queued (UNAVAILABLE on drain, DEADLINE_EXCEEDED in the queue).
  absl::Status status;
  int prompt_tokens = 0;
  int completion_tokens = 0;
  RequestTimes times;
};

// One step of one choice of a request. Events of a choice arrive in order; the one with `finish`
// is its last.
struct Event {
  int choice = 0;
  std::string text;  // new text, whole UTF-8 characters
  // New tokens, one that ended it included; their text may follow in a later event.
  std::vector<int> tokens;
  std::vector<LogprobEntry> logprobs;         // one a token, if asked for
  std::vector<LogprobEntry> prompt_logprobs;  // once, before or with the first token, if asked for
  std::vector<float> embedding;               // once, with the finish kEmbedded: vectors of size D
  std::optional<Finish> finish;
  bool alone = false;  // no other is delivered with it: the engine's thread may bring it on its way
};

// Where events go. Deliver is called on the engine's thread and must neither block nor throw.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void Deliver(Event event) = 0;
};

// One choice of a client's request to generate, or one input of a request to embed; those of one
// client request share a sink and a cancel flag. Every field is validated before a Request is made.
// Immutable once queued.
struct Request {
  uint64_t id = 0;                // the server's own, unique
  int choice = 0;                 // or number of the input
  std::string client_request_id;  // for logs only

  std::vector<int> prompt;     // >= 1 token, each in range; zeros where `vectors` stand for them
  std::vector<float> vectors;  // [prompt.size(), embed_dim], finite; empty: the prompt is tokens
  std::optional<Pooling> pooling;  // the prompt is embedded like this, and nothing is generated
  SamplingOptions sampling;
  int max_new_tokens = 0;  // 0: only the prompt is scored
  int min_new_tokens = 0;
  std::vector<std::string> stop_strings;
  std::vector<int> stop_tokens;
  bool include_stop_strings = false;
  bool ignore_eos = false;
  int logprobs = -1;         // -1: none; else the number of alternatives a token
  int prompt_logprobs = -1;  // likewise
  int priority = 0;          // lower first

  Clock::time_point received;
  Clock::time_point due;  // requests are served in this order; see DueTime
  std::optional<Clock::time_point> deadline;
  std::shared_ptr<std::atomic<bool>> cancelled;
  std::shared_ptr<EventSink> sink;
};

}  // namespace fla
