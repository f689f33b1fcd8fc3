// From the engine's events to the client's messages.
#pragma once

#include <cstddef>
#include <deque>

#include "fla/v1/inference.pb.h"
#include "model/tokenizer.h"
#include "server/request.h"

namespace fla {

// Events on their way to a client. What waits of one choice is merged, so that a slow reader gets
// fewer and larger messages and costs little memory.
//
// Thread safety: none; the owner locks.
class EventBuffer {
 public:
  void Push(Event event);
  // The oldest; the buffer must not be empty.
  Event Take();
  bool empty() const { return events_.empty(); }
  // Events pushed and not yet taken.
  size_t waiting() const { return waiting_; }
  void Clear();

 private:
  struct Merged {
    Event event;
    size_t count;
  };
  std::deque<Merged> events_;  // at most one a choice
  size_t waiting_ = 0;
};

// Adds what an event brings to the message of its choice and to the prompt's log-probabilities.
void AppendEvent(const Event& event, const Tokenizer& tokenizer, v1::Choice& choice,
                 google::protobuf::RepeatedPtrField<v1::LogprobEntry>& prompt_logprobs);

// The vectors of an event that finishes an input of Embed.
void FillEmbedding(const Event& event, int hidden_size, v1::Embedding& embedding);

// Usage and times of a client's request over its choices, which share their prompt, or its inputs.
class Totals {
 public:
  enum Of { kChoices, kInputs };
  explicit Totals(Of of = kChoices) : of_(of) {}

  Of of() const { return of_; }
  void Add(const Finish& finish);
  int finished() const { return finished_; }  // choices or inputs
  int prompt_tokens() const { return prompt_tokens_; }
  int completion_tokens() const { return completion_tokens_; }
  v1::Usage usage() const;
  v1::Timings timings() const;

 private:
  const Of of_;
  int finished_ = 0;
  int prompt_tokens_ = 0;
  int completion_tokens_ = 0;
  // Earliest admission and first token, latest last token and finish, longest gap.
  RequestTimes times_;
};

}  // namespace fla
