// One request from its slot to its finish: which tokens go in, what came out, when to stop.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/sampler.h"
#include "model/tokenizer.h"
#include "server/pooled_states.h"
#include "server/request.h"
#include "server/stop_matcher.h"

namespace fla {

// The tokens that end a text: those of the checkpoint's configurations, and its tokenizer's
// eos_token, which is how a chat model ends its turn.
std::vector<int> EosTokens(const ModelConfig& config, const Tokenizer& tokenizer);

// Belongs to the engine's thread. The order of calls: Feed until prompt_left() is 0 (with
// ScoreSample and AppendPromptLogprob for each prompt position but the last if scores_prompt()),
// then FinishPrompt; then, while not finished, NextSample, Append and Feed(1). Launching ahead of
// the host, Expect stands in for Append: NextSample, Expect, Feed(1), NextSample, Append and so on.
class Sequence {
 public:
  // `tokenizer` must outlive the sequence. `eos_tokens` end it unless the request ignores them.
  Sequence(Request request, const Tokenizer& tokenizer, const std::vector<int>& eos_tokens,
           Clock::time_point admitted);
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  const Request& request() const { return request_; }
  const RequestTimes& times() const { return times_; }
  int completion_tokens() const { return num_output_; }
  bool finished() const { return finished_; }

  // Tokens that went into the model so far: the position of the next one.
  int position() const { return position_; }
  // Prompt tokens that have not gone in yet.
  int prompt_left() const;
  bool scores_prompt() const { return request_.prompt_logprobs >= 0; }

  // Adds the next `count` input tokens to `tokens`: a piece of the prompt, or, when none is left,
  // the token that was generated last (count 1), by its place where it is only expected.
  void Feed(int count, std::vector<int>& tokens);

  // How the logits after prompt[position] are scored: the next prompt token is forced. Position
  // is less than the index of the last.
  SampleRequest ScoreSample(int position) const;
  void AppendPromptLogprob(const SampledToken& token);

  // Of a prompt that is embedded: how many of its next `count` tokens' hidden states are wanted,
  // the last ones; to be asked before Feed. AppendHidden brings them, before FinishPrompt; false:
  // one is not finite.
  int HiddenRows(int count) const;
  [[nodiscard]] bool AppendHidden(std::span<const float> rows, int columns);

  // Says that all of the prompt is in and scored; ends a request that generates nothing.
  void FinishPrompt(Clock::time_point now);

  // How the next token is chosen. Its spans are valid until the next call of Append.
  SampleRequest NextSample() const;
  // A token is being generated that Append will bring: number `row` of its step's samples.
  void Expect(int row);
  // True while the next token can be chosen without knowing those that are expected, and is wanted
  // whatever they are, unless they end the sequence.
  bool CanRunAhead() const { return !has_penalties_; }
  bool WantsMore() const { return num_output_ + num_expected_ < request_.max_new_tokens; }
  // Takes a generated token; may finish the sequence.
  void Append(const SampledToken& token, Clock::time_point now);

  // Ends it from outside; text that was held back is let go. Not to be called when finished.
  void End(FinishReason reason, absl::Status status, Clock::time_point now);

  // What is to be told since the last call, if anything.
  std::optional<Event> TakeEvent();

 private:
  bool IsUserStop(int token) const;
  bool IsEos(int token) const;
  void EndAt(FinishReason reason, Clock::time_point now);

  const Request request_;
  const Tokenizer& tokenizer_;
  std::vector<int> eos_tokens_;  // empty if they are ignored
  std::vector<LogitBias> biases_;
  std::vector<LogitBias> biases_without_stops_;  // while min_new_tokens are not reached
  bool has_penalties_;
  TokenHistory history_;  // kept only if there are penalties
  IncrementalDecoder decoder_;
  StopMatcher stop_matcher_;

  int position_ = 0;
  int num_output_ = 0;
  int num_expected_ = 0;  // tokens that Append will bring
  int last_token_ = -1;   // that Feed adds next: a token, or -1 - row of one that is expected
  bool finished_ = false;
  std::vector<LogprobEntry> prompt_logprobs_;
  std::optional<PooledStates> pooled_;  // of a prompt that is embedded
  RequestTimes times_;
  Event event_;
  bool has_event_ = false;
};

}  // namespace fla
