#include "server/sequence.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace fla {
namespace {

bool Contains(const std::vector<int>& tokens, int token) {
  return std::find(tokens.begin(), tokens.end(), token) != tokens.end();
}

LogprobEntry EntryOf(const SampledToken& sampled) {
  LogprobEntry entry;
  entry.chosen = {sampled.token, sampled.logprob};
  for (const auto& [token, logprob] : sampled.top) entry.top.push_back({token, logprob});
  return entry;
}

}  // namespace

std::vector<int> EosTokens(const ModelConfig& config, const Tokenizer& tokenizer) {
  std::vector<int> tokens = config.eos_token_ids;
  const int eos = tokenizer.eos_token_id();
  if (eos >= 0 && eos < config.vocab_size && !Contains(tokens, eos)) tokens.push_back(eos);
  return tokens;
}

Sequence::Sequence(Request request, const Tokenizer& tokenizer, const std::vector<int>& eos_tokens,
                   Clock::time_point admitted)
    : request_(std::move(request)),
      tokenizer_(tokenizer),
      decoder_(tokenizer),
      stop_matcher_(request_.stop_strings, request_.include_stop_strings) {
  if (!request_.ignore_eos) eos_tokens_ = eos_tokens;
  const SamplingOptions& sampling = request_.sampling;
  for (const auto& [token, bias] : sampling.logit_bias) biases_.push_back({token, bias});

  if (request_.min_new_tokens > 0) {
    std::vector<int> forbidden = eos_tokens_;
    for (int token : request_.stop_tokens) {
      if (!Contains(forbidden, token)) forbidden.push_back(token);
    }
    for (const LogitBias& bias : biases_) {
      if (!Contains(forbidden, bias.token)) biases_without_stops_.push_back(bias);
    }
    for (int token : forbidden) {
      biases_without_stops_.push_back({token, -std::numeric_limits<float>::infinity()});
    }
  }

  has_penalties_ = sampling.repetition_penalty != 1.0f || sampling.presence_penalty != 0.0f ||
                   sampling.frequency_penalty != 0.0f;
  if (sampling.repetition_penalty != 1.0f) history_.AddPrompt(request_.prompt);

  if (request_.pooling) pooled_.emplace(*request_.pooling);
  times_.received = request_.received;
  times_.admitted = admitted;
  event_.choice = request_.choice;
}

int Sequence::prompt_left() const {
  return std::max(0, static_cast<int>(request_.prompt.size()) - position_);
}

void Sequence::Feed(int count, std::vector<int>& tokens) {
  if (prompt_left() > 0) {
    const auto begin = request_.prompt.begin() + position_;
    tokens.insert(tokens.end(), begin, begin + count);
  } else {
    tokens.push_back(last_token_);
  }
  position_ += count;
}

SampleRequest Sequence::ScoreSample(int position) const {
  SampleRequest sample;
  sample.row.forced_token = request_.prompt[position + 1];
  sample.row.num_top_logprobs = request_.prompt_logprobs;
  return sample;
}

void Sequence::AppendPromptLogprob(const SampledToken& token) {
  prompt_logprobs_.push_back(EntryOf(token));
}

int Sequence::HiddenRows(int count) const {
  return pooled_ ? pooled_->RowsOf(count, count == prompt_left()) : 0;
}

bool Sequence::AppendHidden(std::span<const float> rows, int columns) {
  return pooled_->Add(rows, columns);
}

void Sequence::FinishPrompt(Clock::time_point now) {
  if (pooled_) {
    event_.embedding = pooled_->Take();
    EndAt(FinishReason::kEmbedded, now);
    return;
  }
  if (scores_prompt()) {
    event_.prompt_logprobs = std::move(prompt_logprobs_);
    has_event_ = true;
  }
  if (request_.max_new_tokens == 0) EndAt(FinishReason::kLength, now);
}

SampleRequest Sequence::NextSample() const {
  const SamplingOptions& sampling = request_.sampling;
  SampleRequest sample;
  sample.row.temperature = sampling.temperature;
  sample.row.top_k = sampling.top_k;
  sample.row.top_p = sampling.top_p;
  sample.row.min_p = sampling.min_p;
  sample.row.repetition_penalty = sampling.repetition_penalty;
  sample.row.presence_penalty = sampling.presence_penalty;
  sample.row.frequency_penalty = sampling.frequency_penalty;
  sample.row.seed = sampling.seed;
  const int number = num_output_ + num_expected_;
  sample.row.position = static_cast<int64_t>(request_.prompt.size()) + number;
  sample.row.num_top_logprobs = std::max(0, request_.logprobs);
  sample.counts = history_.counts();
  sample.biases = number < request_.min_new_tokens ? biases_without_stops_ : biases_;
  return sample;
}

void Sequence::Expect(int row) {
  last_token_ = -1 - row;
  ++num_expected_;
}

void Sequence::Append(const SampledToken& token, Clock::time_point now) {
  if (num_expected_ > 0) --num_expected_;
  if (num_expected_ == 0) last_token_ = token.token;
  ++num_output_;
  if (has_penalties_) history_.AddOutput(token.token);
  if (num_output_ == 1) {
    times_.first_token = now;
  } else {
    times_.longest_gap = std::max(times_.longest_gap, now - times_.last_token);
  }
  times_.last_token = now;
  event_.tokens.push_back(token.token);
  if (request_.logprobs >= 0) event_.logprobs.push_back(EntryOf(token));
  has_event_ = true;

  // A token that ends the text is no part of it.
  const bool user_stop = IsUserStop(token.token);
  if (user_stop || IsEos(token.token)) {
    EndAt(FinishReason::kStop, now);
    if (user_stop) event_.finish->stop_token = token.token;
    return;
  }
  // A model's vocabulary may be padded beyond that of its tokenizer.
  if (token.token < tokenizer_.vocab_size()) {
    const bool apply_stops = num_output_ >= request_.min_new_tokens;
    event_.text += stop_matcher_.Append(decoder_.Append(token.token), apply_stops);
  }
  if (stop_matcher_.matched() != nullptr) {
    EndAt(FinishReason::kStop, now);
  } else if (num_output_ >= request_.max_new_tokens) {
    EndAt(FinishReason::kLength, now);
  }
}

void Sequence::End(FinishReason reason, absl::Status status, Clock::time_point now) {
  EndAt(reason, now);
  event_.finish->reason = reason;
  event_.finish->status = std::move(status);
}

bool Sequence::IsUserStop(int token) const { return Contains(request_.stop_tokens, token); }
bool Sequence::IsEos(int token) const { return Contains(eos_tokens_, token); }

void Sequence::EndAt(FinishReason reason, Clock::time_point now) {
  // What the decoder still holds are bytes of an incomplete character.
  event_.text += stop_matcher_.Append(decoder_.Finish(), /*apply=*/false);
  event_.text += stop_matcher_.Finish();
  Finish finish;
  finish.reason = reason;
  if (stop_matcher_.matched() != nullptr) finish.stop_string = *stop_matcher_.matched();
  finish.prompt_tokens = static_cast<int>(request_.prompt.size());
  finish.completion_tokens = num_output_;
  times_.finished = now;
  finish.times = times_;
  event_.finish = std::move(finish);
  has_event_ = true;
  finished_ = true;
}

std::optional<Event> Sequence::TakeEvent() {
  if (!has_event_) return std::nullopt;
  has_event_ = false;
  Event next;
  next.choice = request_.choice;
  return std::exchange(event_, std::move(next));
}

}  // namespace fla
