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
    if (prompts_.empty()) return;
    const int half = prompts_.size() == 1 ? left_ : left_ - left_ / 2;
    Grant(0, half, /*aligned=*/true);
    if (shares_[0] == 0) Grant(0, left_, /*aligned=*/true);
    const bool aligned = shares_[0] > 0;  // else the batch is too small for that
    if (!aligned) Grant(0, half, /*aligned=*/false);
    for (size_t i = 1; i < prompts_.size(); ++i) Grant(i, left_, /*aligned=*/true);
    Grant(0, left_, aligned);
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
  const std::vector<int> prompts_;  // indices into running_; see InOrderOfService
  std::vector<int> shares_;
  int left_;
  int scored_left_;
  const int alignment_;
};

// The prompt that is due first, then the others from the shortest.
std::vector<int> InOrderOfService(std::span<const RunningSequence> running,
                                  std::vector<int> prompts) {
  if (prompts.empty()) return prompts;
  const auto is_due_before = [&](int a, int b) {
    return std::tie(running[a].due, running[a].arrival) <
           std::tie(running[b].due, running[b].arrival);
  };
  std::iter_swap(prompts.begin(), std::min_element(prompts.begin(), prompts.end(), is_due_before));
  std::sort(prompts.begin() + 1, prompts.end(), [&](int a, int b) {
    if (running[a].prompt_left != running[b].prompt_left) {
      return running[a].prompt_left < running[b].prompt_left;
    }
    return is_due_before(a, b);
  });
  return prompts;
}

}  // namespace

BatchPlan ComposeBatch(std::span<const RunningSequence> running, const BatchLimits& limits) {
  std::vector<int> decoding, prompts;
  int64_t prompt_tokens = 0;
  for (int i = 0; i < static_cast<int>(running.size()); ++i) {
    (running[i].prompt_left > 0 ? prompts : decoding).push_back(i);
    prompt_tokens += running[i].prompt_left;
  }
  const int max_tokens =
      decoding.empty() ? std::max(limits.max_tokens, limits.max_prefill_tokens) : limits.max_tokens;
  const int64_t kept_for_prompts = std::min<int64_t>(prompt_tokens, std::max(1, max_tokens / 8));
  const size_t max_decode = static_cast<size_t>(max_tokens - kept_for_prompts);
  if (decoding.size() > max_decode) {
    std::sort(decoding.begin(), decoding.end(),
              [&](int a, int b) { return running[a].last_turn < running[b].last_turn; });
    decoding.resize(max_decode);
  }

  BatchPlan plan;
  plan.num_decode = static_cast<int>(decoding.size());
  for (int sequence : decoding) plan.pieces.push_back({sequence, 1});
  PromptShares shares(running, InOrderOfService(running, std::move(prompts)),
                      max_tokens - plan.num_decode, limits);
  shares.Distribute();
  shares.AppendTo(plan.pieces);
  return plan;
}

}  // namespace fla
