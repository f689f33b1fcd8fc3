#include "server/scheduler.h"

#include <algorithm>
#include <tuple>

namespace fla {
namespace {

// Hands out a token budget to prompts.
class PromptShares {
 public:
  PromptShares(std::span<const RunningSequence> running, std::vector<int> prompts, int budget,
               const BatchLimits& limits)
      : running_(running),
        prompts_(std::move(prompts)),
        shares_(prompts_.size(), 0),
        left_(budget),
        scored_left_(limits.max_scored_rows),
        alignment_(limits.alignment) {}

  void Distribute() {
    for (size_t i = 0; i + 1 < prompts_.size(); ++i) Grant(i, left_ - left_ / 4, /*aligned=*/true);
    if (prompts_.size() > 1) Grant(prompts_.size() - 1, left_, /*aligned=*/true);
    for (size_t i = 0; i < prompts_.size(); ++i) Grant(i, left_, /*aligned=*/true);
    const bool none = std::all_of(shares_.begin(), shares_.end(), [](int s) { return s == 0; });
    if (none && !prompts_.empty()) Grant(0, left_, /*aligned=*/false);
  }

  void AppendTo(std::vector<BatchPlan::Piece>& pieces) const {
    for (size_t i = 0; i < prompts_.size(); ++i) {
      if (shares_[i] > 0) pieces.push_back({prompts_[i], shares_[i]});
    }
  }

 private:
  // Adds up to `offer` tokens to the share of prompt i.
  void Grant(size_t i, int offer, bool aligned) {
    const RunningSequence& sequence = running_[prompts_[i]];
    const int wanted = sequence.prompt_left - shares_[i];
    int tokens = std::min(wanted, offer);
    if (sequence.scored) tokens = std::min(tokens, scored_left_);
    if (aligned && tokens < wanted) {
      tokens -= (sequence.position + shares_[i] + tokens) % alignment_;
    }
    tokens = std::max(tokens, 0);
    shares_[i] += tokens;
    left_ -= tokens;
    if (sequence.scored) scored_left_ -= tokens;
  }

  const std::span<const RunningSequence> running_;
  const std::vector<int> prompts_;  // indices into running_, the first to be served first
  std::vector<int> shares_;
  int left_;
  int scored_left_;
  const int alignment_;
};

}  // namespace

BatchPlan ComposeBatch(std::span<const RunningSequence> running, const BatchLimits& limits) {
  std::vector<int> decoding, prompts;
  int64_t prompt_tokens = 0;
  for (int i = 0; i < static_cast<int>(running.size()); ++i) {
    (running[i].prompt_left > 0 ? prompts : decoding).push_back(i);
    prompt_tokens += running[i].prompt_left;
  }
  const int64_t kept_for_prompts =
      std::min<int64_t>(prompt_tokens, std::max(1, limits.max_tokens / 8));
  const size_t max_decode = static_cast<size_t>(limits.max_tokens - kept_for_prompts);
  if (decoding.size() > max_decode) {
    std::sort(decoding.begin(), decoding.end(),
              [&](int a, int b) { return running[a].last_turn < running[b].last_turn; });
    decoding.resize(max_decode);
  }
  std::sort(prompts.begin(), prompts.end(), [&](int a, int b) {
    return std::tie(running[a].priority, running[a].arrival) <
           std::tie(running[b].priority, running[b].arrival);
  });

  BatchPlan plan;
  plan.num_decode = static_cast<int>(decoding.size());
  for (int sequence : decoding) plan.pieces.push_back({sequence, 1});
  PromptShares shares(running, std::move(prompts), limits.max_tokens - plan.num_decode, limits);
  shares.Distribute();
  shares.AppendTo(plan.pieces);
  return plan;
}

}  // namespace fla
