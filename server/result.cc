#include "server/result.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

namespace fla {
namespace {

static_assert(std::endian::native == std::endian::little, "vectors are copied as they are");

template <typename T>
void MoveTo(std::vector<T>& target, std::vector<T>& source) {
  target.insert(target.end(), std::make_move_iterator(source.begin()),
                std::make_move_iterator(source.end()));
}

void Fill(const TokenLogprob& from, const Tokenizer& tokenizer, v1::TokenLogprob& to) {
  to.set_token_id(from.token);
  to.set_logprob(from.logprob);
  // A model may have more rows than its tokenizer has tokens; such a token has no bytes.
  if (from.token < tokenizer.vocab_size()) to.set_token(tokenizer.TokenBytes(from.token));
}

void Fill(const LogprobEntry& from, const Tokenizer& tokenizer, v1::LogprobEntry& to) {
  Fill(from.chosen, tokenizer, *to.mutable_chosen());
  for (const TokenLogprob& top : from.top) Fill(top, tokenizer, *to.add_top());
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
    case FinishReason::kEmbedded:
      break;  // Embed's answers have no finish
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

bool IsSet(Clock::time_point time) { return time != Clock::time_point(); }

Clock::time_point Earlier(Clock::time_point a, Clock::time_point b) {
  if (!IsSet(a)) return b;
  if (!IsSet(b)) return a;
  return std::min(a, b);
}

// 0 where one of the two did not come.
double Seconds(Clock::time_point from, Clock::time_point to) {
  return IsSet(from) && IsSet(to) ? std::chrono::duration<double>(to - from).count() : 0.0;
}

}  // namespace

void EventBuffer::Push(Event event) {
  ++waiting_;
  for (Merged& merged : events_) {
    Event& earlier = merged.event;
    if (earlier.choice != event.choice) continue;
    earlier.text += event.text;
    MoveTo(earlier.tokens, event.tokens);
    MoveTo(earlier.logprobs, event.logprobs);
    MoveTo(earlier.prompt_logprobs, event.prompt_logprobs);
    MoveTo(earlier.embedding, event.embedding);
    if (event.finish) earlier.finish = std::move(event.finish);
    ++merged.count;
    return;
  }
  events_.push_back({std::move(event), 1});
}

Event EventBuffer::Take() {
  Merged merged = std::move(events_.front());
  events_.pop_front();
  waiting_ -= merged.count;
  return std::move(merged.event);
}

void EventBuffer::Clear() {
  events_.clear();
  waiting_ = 0;
}

void AppendEvent(const Event& event, const Tokenizer& tokenizer, v1::Choice& choice,
                 google::protobuf::RepeatedPtrField<v1::LogprobEntry>& prompt_logprobs) {
  choice.set_index(event.choice);
  choice.mutable_text()->append(event.text);
  choice.mutable_token_ids()->Add(event.tokens.begin(), event.tokens.end());
  for (const LogprobEntry& entry : event.logprobs) Fill(entry, tokenizer, *choice.add_logprobs());
  for (const LogprobEntry& entry : event.prompt_logprobs) {
    Fill(entry, tokenizer, *prompt_logprobs.Add());
  }
  if (event.finish) {
    v1::Finish& finish = *choice.mutable_finish();
    finish.set_reason(ToProto(event.finish->reason));
    if (!event.finish->stop_string.empty()) {
      finish.set_stop_string(event.finish->stop_string);
    } else if (event.finish->stop_token >= 0) {
      finish.set_stop_token_id(event.finish->stop_token);
    }
  }
}

void FillEmbedding(const Event& event, int hidden_size, v1::Embedding& embedding) {
  v1::Vectors& vectors = *embedding.mutable_vectors();
  vectors.set_columns(hidden_size);
  vectors.set_rows(static_cast<int>(event.embedding.size() / static_cast<size_t>(hidden_size)));
  vectors.set_values(event.embedding.data(), event.embedding.size() * sizeof(float));
  if (event.finish) embedding.set_tokens(event.finish->prompt_tokens);
}

void Totals::Add(const Finish& finish) {
  ++finished_;
  prompt_tokens_ = of_ == kInputs ? prompt_tokens_ + finish.prompt_tokens
                                  : std::max(prompt_tokens_, finish.prompt_tokens);
  completion_tokens_ += finish.completion_tokens;
  times_.received = Earlier(times_.received, finish.times.received);
  times_.admitted = Earlier(times_.admitted, finish.times.admitted);
  times_.first_token = Earlier(times_.first_token, finish.times.first_token);
  times_.last_token = std::max(times_.last_token, finish.times.last_token);
  times_.finished = std::max(times_.finished, finish.times.finished);
  times_.longest_gap = std::max(times_.longest_gap, finish.times.longest_gap);
}

v1::Usage Totals::usage() const {
  v1::Usage usage;
  usage.set_prompt_tokens(prompt_tokens_);
  usage.set_completion_tokens(completion_tokens_);
  return usage;
}

v1::Timings Totals::timings() const {
  v1::Timings timings;
  timings.set_queue_seconds(Seconds(times_.received, times_.admitted));
  timings.set_prefill_seconds(
      Seconds(times_.admitted, of_ == kInputs ? times_.finished : times_.first_token));
  timings.set_decode_seconds(Seconds(times_.first_token, times_.last_token));
  timings.set_first_token_seconds(Seconds(times_.received, times_.first_token));
  timings.set_total_seconds(Seconds(times_.received, times_.finished));
  timings.set_longest_gap_seconds(std::chrono::duration<double>(times_.longest_gap).count());
  return timings;
}

}  // namespace fla
