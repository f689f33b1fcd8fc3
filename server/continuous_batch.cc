#include "server/continuous_batch.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace fla {
namespace {

// Bytes that the logits of scored prompts may take in one step.
constexpr int64_t kScoredLogitsBytes = int64_t{64} << 20;

BatchLimits LimitsFor(const ModelConfig& config, const ContinuousBatch::Options& options) {
  // A model without a vocabulary has no logits.
  const int64_t row_bytes =
      int64_t{std::max(config.vocab_size, 1)} * static_cast<int64_t>(sizeof(float));
  BatchLimits limits;
  limits.max_tokens = options.max_batch_tokens;
  limits.max_prefill_tokens = options.max_prefill_tokens;
  limits.max_scored_rows =
      static_cast<int>(std::clamp<int64_t>(kScoredLogitsBytes / row_bytes, 16, 4096));
  return limits;
}

bool GoesOn(const Sequence& sequence) {
  return !sequence.finished() && (sequence.prompt_left() > 0 || sequence.WantsMore());
}

std::string DeviceOf(Model& model) { return NameOf(model.stream().device()); }

}  // namespace

bool IsCancelled(const Request& request) {
  return request.cancelled != nullptr && request.cancelled->load(std::memory_order_relaxed);
}

bool IsExpired(const Request& request, Clock::time_point now) {
  return request.deadline.has_value() && *request.deadline <= now;
}

ContinuousBatch::ContinuousBatch(Model& model, const Tokenizer& tokenizer, const Options& options,
                                 ModelMetrics& metrics)
    : model_(model),
      tokenizer_(tokenizer),
      eos_tokens_(EosTokens(model.config(), tokenizer)),
      metrics_(metrics),
      limits_(LimitsFor(model.config(), options)),
      pool_(model.stream(), model.config(), options.slots, options.states),
      sampler_(model.stream(), options.slots + limits_.max_scored_rows, model.config().vocab_size),
      hidden_copies_(model.stream()),
      launch_ahead_(options.launch_ahead),
      running_gauge_(metrics.running()),
      slots_used_gauge_(metrics.slots_used()),
      slots_total_gauge_(metrics.slots_total()),
      weights_gauge_(metrics.memory(DeviceOf(model), MemoryKind::kWeights)),
      states_gauge_(metrics.memory(DeviceOf(model), MemoryKind::kStates)),
      workspace_gauge_(metrics.memory(DeviceOf(model), MemoryKind::kWorkspace)) {
  for (int i = 0; i <= Sampler::kMaxAhead; ++i) passed_.emplace_back(model.stream().device());
  model.Prepare(pool_, sampler_.tokens(), options.slots, options.slots + limits_.max_scored_rows);
  slots_total_gauge_.Set(pool_.total());
  weights_gauge_.Set(model.weight_bytes());
  states_gauge_.Set(pool_.bytes());
  workspace_gauge_.Set(model.workspace_bytes());
}

void ContinuousBatch::Admit(QueuedRequest request) {
  FLA_CHECK(!full());
  Running running;
  running.sequence =
      std::make_shared<Sequence>(std::move(request.request), tokenizer_, eos_tokens_, Clock::now());
  running.arrival = request.arrival;
  running.last_turn = turns_;
  // If the device fails in Acquire, the request is among those that EndAll tells.
  running_.push_back(std::move(running));
  running_.back().slot = pool_.Acquire(model_.stream());
  const auto later =
      std::upper_bound(running_.begin(), running_.end() - 1, running_.back().slot,
                       [](int slot, const Running& other) { return slot < other.slot; });
  std::rotate(later, running_.end() - 1, running_.end());
  UpdateGauges();
}

void ContinuousBatch::DropEnded(Clock::time_point now) {
  for (Running& running : running_) {
    Sequence& sequence = *running.sequence;
    // In this order: gRPC cancels a call whose deadline passes.
    if (IsExpired(sequence.request(), now)) {
      sequence.End(FinishReason::kDeadline, absl::OkStatus(), now);
    } else if (IsCancelled(sequence.request())) {
      sequence.End(FinishReason::kCancelled, absl::OkStatus(), now);
    }
  }
}

void ContinuousBatch::RunStep() {
  const auto collect = [this](const Step& step) {
    Collect(step);
    metrics_.ObserveStep(Clock::now() - step.composed);
    workspace_gauge_.Set(model_.workspace_bytes());
  };
  if (in_flight_.has_value() && MustCollectFirst()) {
    collect(*std::exchange(in_flight_, std::nullopt));
  }
  Step next = Compose();
  const bool launched = !next.batch.tokens.empty();
  if (launched) {
    metrics_.ObserveBatch(next.batch.num_decode,
                          static_cast<int>(next.batch.tokens.size()) - next.batch.num_decode);
    next.follows = !std::exchange(idle_, false);
    Launch(next);
  }
  if (in_flight_.has_value()) collect(*std::exchange(in_flight_, std::nullopt));
  if (!launched) return;
  if (launch_ahead_) {
    in_flight_ = std::move(next);
  } else {
    collect(next);
  }
}

bool ContinuousBatch::CanLaunch() const {
  return std::any_of(running_.begin(), running_.end(),
                     [](const Running& running) { return GoesOn(*running.sequence); });
}

bool ContinuousBatch::StepNearsEnd() const {
  return !in_flight_.has_value() || in_flight_->batch.num_decode > 0 || !in_flight_->nears_end ||
         in_flight_->nears_end();
}

bool ContinuousBatch::StepIsDone() const {
  if (!in_flight_.has_value()) return true;
  return in_flight_->rows.empty() ? passed_[collected_ % passed_.size()].IsPassed()
                                  : sampler_.IsDone();
}

bool ContinuousBatch::MustCollectFirst() const {
  return std::any_of(in_flight_->rows.begin(), in_flight_->rows.end(), [](const Step::Row& row) {
    return !row.sequence->finished() && !row.sequence->CanRunAhead();
  });
}

ContinuousBatch::Step ContinuousBatch::Compose() {
  std::vector<RunningSequence> views;
  std::vector<Running*> candidates;
  for (Running& running : running_) {
    const Sequence& sequence = *running.sequence;
    if (!GoesOn(sequence)) continue;
    candidates.push_back(&running);
    views.push_back({.due = sequence.request().due.time_since_epoch().count(),
                     .arrival = running.arrival,
                     .position = sequence.position(),
                     .prompt_left = sequence.prompt_left(),
                     .scored = sequence.scores_prompt(),
                     .last_turn = running.last_turn});
  }
  const BatchPlan plan = ComposeBatch(views, limits_);

  Step step;
  step.composed = Clock::now();
  step.batch.num_decode = plan.num_decode;
  step.batch.sampled = sampler_.tokens();
  step.batch.cu_seqlens.push_back(0);
  for (const BatchPlan::Piece& piece : plan.pieces) {
    AddPiece(*candidates[piece.sequence], piece.tokens, step);
  }
  return step;
}

void ContinuousBatch::AddPiece(Running& running, int tokens, Step& step) {
  Sequence& sequence = *running.sequence;
  Batch& batch = step.batch;
  const int first_row = static_cast<int>(batch.tokens.size());
  const int position = sequence.position();
  const bool is_prompt = sequence.prompt_left() > 0;
  const int hidden = is_prompt ? sequence.HiddenRows(tokens) : 0;
  running.last_turn = ++turns_;
  batch.slots.push_back(running.slot);
  batch.positions.push_back(position);
  if (is_prompt && !sequence.request().vectors.empty()) {
    const std::vector<float>& vectors = sequence.request().vectors;
    const int64_t size = model_.config().embed_dim;
    batch.vector_rows.push_back({first_row, tokens});
    batch.vectors.insert(batch.vectors.end(), vectors.begin() + position * size,
                         vectors.begin() + (position + tokens) * size);
  }
  sequence.Feed(tokens, batch.tokens);
  batch.cu_seqlens.push_back(static_cast<int>(batch.tokens.size()));

  const bool prompt_done = sequence.prompt_left() == 0;
  if (is_prompt) {
    metrics_.CountPromptTokens(tokens);
    const int scored = sequence.scores_prompt() ? tokens - (prompt_done ? 1 : 0) : 0;
    for (int i = 0; i < scored; ++i) {
      batch.logits_rows.push_back(first_row + i);
      step.rows.push_back({running.sequence, /*scores_prompt=*/true});
      step.samples.push_back(sequence.ScoreSample(position + i));
    }
    for (int i = tokens - hidden; i < tokens; ++i) batch.hidden_rows.push_back(first_row + i);
    if (hidden > 0) step.hidden.push_back({running.sequence, hidden});
    if (prompt_done) step.prompts_done.push_back(running.sequence);
  }
  if (prompt_done && sequence.request().max_new_tokens > 0) {
    batch.logits_rows.push_back(first_row + tokens - 1);
    step.rows.push_back({running.sequence, /*scores_prompt=*/false});
    step.samples.push_back(sequence.NextSample());
    if (launch_ahead_) sequence.Expect(static_cast<int>(step.rows.size()) - 1);
  }
}

void ContinuousBatch::Launch(Step& step) {
  sampler_.Prepare(step.samples);
  ForwardResult result = model_.Forward(step.batch, pool_);
  step.nears_end = std::move(result.nears_end);
  sampler_.Launch(result.logits, result.began);
  hidden_copies_.Launch(result.hidden);
  // One that samples nothing must not be passed either: of a long prompt alone all pieces would be
  // on their way at once, and whoever comes then would wait for all of them.
  Fence& passed = passed_[launched_++ % passed_.size()];
  if (step.rows.empty()) passed.Record(model_.stream());
}

void ContinuousBatch::Collect(const Step& step) {
  const std::vector<SampledToken> sampled = sampler_.Collect();
  Fence& passed = passed_[collected_++ % passed_.size()];
  if (step.rows.empty()) passed.Wait();
  ObserveGap(step);
  const Clock::time_point now = Clock::now();
  for (size_t i = 0; i < sampled.size(); ++i) {
    Sequence& sequence = *step.rows[i].sequence;
    if (step.rows[i].scores_prompt && Usable(sequence, sampled[i], now)) {
      sequence.AppendPromptLogprob(sampled[i]);
    }
  }
  CollectHidden(step, now);
  for (const std::shared_ptr<Sequence>& sequence : step.prompts_done) {
    if (!sequence->finished()) sequence->FinishPrompt(now);
  }
  int generated = 0;
  for (size_t i = 0; i < sampled.size(); ++i) {
    Sequence& sequence = *step.rows[i].sequence;
    if (step.rows[i].scores_prompt || !Usable(sequence, sampled[i], now)) continue;
    if (sequence.completion_tokens() == 0) {
      metrics_.ObserveFirstToken(now - sequence.times().received);
    } else {
      metrics_.ObserveInterToken(now - sequence.times().last_token);
    }
    sequence.Append(sampled[i], now);
    ++generated;
  }
  metrics_.CountGenerationTokens(generated);
}

void ContinuousBatch::ObserveGap(const Step& step) {
  const StepTimes& times = sampler_.times();
  if (step.follows && last_end_ > 0 && times.began >= last_end_) {
    metrics_.ObserveDeviceGap(std::chrono::nanoseconds(times.began - last_end_));
  }
  last_end_ = times.ended;
}

void ContinuousBatch::CollectHidden(const Step& step, Clock::time_point now) {
  const std::span<const float> rows = hidden_copies_.Collect();
  const int columns = model_.config().hidden_size;
  size_t begin = 0;
  for (const Step::HiddenPiece& piece : step.hidden) {
    const size_t count = static_cast<size_t>(piece.rows) * columns;
    if (!piece.sequence->finished() &&
        !piece.sequence->AppendHidden(rows.subspan(begin, count), columns)) {
      EndNonfinite(*piece.sequence, "hidden states", now);
    }
    begin += count;
  }
}

bool ContinuousBatch::Usable(Sequence& sequence, const SampledToken& sampled,
                             Clock::time_point now) {
  if (sequence.finished()) return false;
  if (!sampled.nonfinite) return true;
  EndNonfinite(sequence, "logits", now);
  return false;
}

void ContinuousBatch::EndNonfinite(Sequence& sequence, const char* what, Clock::time_point now) {
  const Request& request = sequence.request();
  spdlog::error("request {} ({}): {} that are not finite at position {}", request.id,
                request.client_request_id, what, sequence.position());
  metrics_.CountNonfinite();
  sequence.End(FinishReason::kStop,
               absl::InternalError(absl::StrCat("the model's ", what, " are not finite")), now);
}

void ContinuousBatch::EndAll(const absl::Status& status) {
  const Clock::time_point now = Clock::now();
  for (Running& running : running_) {
    if (!running.sequence->finished()) {
      running.sequence->End(FinishReason::kCancelled, status, now);
    }
  }
}

int ContinuousBatch::Deliver() {
  std::vector<std::pair<std::shared_ptr<EventSink>, Event>> events;
  std::vector<Running> left;
  for (Running& running : running_) {
    Sequence& sequence = *running.sequence;
    if (std::optional<Event> event = sequence.TakeEvent()) {
      events.emplace_back(sequence.request().sink, std::move(*event));
    }
    if (sequence.finished()) {
      if (running.slot >= 0) pool_.Release(running.slot);
    } else {
      left.push_back(std::move(running));
    }
  }
  const int finished = static_cast<int>(running_.size() - left.size());
  running_ = std::move(left);
  idle_ = idle_ || running_.empty();
  if (finished > 0) UpdateGauges();
  for (auto& [sink, event] : events) {
    if (event.finish.has_value()) metrics_.ObserveFinish(*event.finish);
    event.alone = events.size() == 1;
    sink->Deliver(std::move(event));
  }
  return finished;
}

void ContinuousBatch::UpdateGauges() {
  running_gauge_.Set(pool_.used());
  slots_used_gauge_.Set(pool_.used());
}

}  // namespace fla
