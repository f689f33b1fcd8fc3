#include "server/request_queue.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace fla {

Clock::time_point DueTime(Clock::time_point received, int priority, Clock::duration aging) {
  return received + priority * aging;
}

RequestQueue::PushResult RequestQueue::Push(std::vector<Request> choices) {
  int64_t tokens = 0;
  for (const Request& request : choices) tokens += static_cast<int64_t>(request.prompt.size());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return PushResult::kClosed;
    if (queued_.size() + choices.size() > static_cast<size_t>(max_requests_)) {
      return PushResult::kTooManyRequests;
    }
    if (!queued_.empty() && tokens_ + tokens > max_tokens_) return PushResult::kTooManyTokens;
    tokens_ += tokens;
    for (Request& request : choices) {
      const std::pair<Clock::time_point, uint64_t> key(request.due, next_arrival_++);
      queued_.emplace(key, std::move(request));
    }
  }
  changed_.notify_all();
  return PushResult::kQueued;
}

std::optional<QueuedRequest> RequestQueue::Pop(Clock::time_point now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (queued_.empty()) return std::nullopt;
  auto node = queued_.extract(queued_.begin());
  tokens_ -= static_cast<int64_t>(node.mapped().prompt.size());
  if (last_pop_) {
    const Clock::duration interval = now - *last_pop_;
    pace_ = pace_ ? *pace_ + (interval - *pace_) / 8 : interval;
  }
  last_pop_ = queued_.empty() ? std::nullopt : std::optional(now);
  return QueuedRequest{std::move(node.mapped()), node.key().second};
}

std::chrono::milliseconds RequestQueue::RetryAfter(int requests) const {
  using std::chrono::milliseconds;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!pace_) return milliseconds(1000);
  const int64_t places = std::max<int64_t>(requests, static_cast<int64_t>(queued_.size()) / 2);
  return std::clamp(std::chrono::duration_cast<milliseconds>(*pace_ * places), milliseconds(100),
                    milliseconds(60000));
}

std::vector<QueuedRequest> RequestQueue::TakeIf(
    const std::function<bool(const Request&)>& condition) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<QueuedRequest> taken;
  for (auto it = queued_.begin(); it != queued_.end();) {
    if (condition(it->second)) {
      tokens_ -= static_cast<int64_t>(it->second.prompt.size());
      taken.push_back({std::move(it->second), it->first.second});
      it = queued_.erase(it);
    } else {
      ++it;
    }
  }
  if (queued_.empty()) last_pop_.reset();
  return taken;
}

void RequestQueue::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
}

bool RequestQueue::TakeReason() { return std::exchange(woken_, false) || !queued_.empty(); }

bool RequestQueue::WaitUntil(const std::function<bool()>& done, Clock::duration most) {
  for (const Clock::time_point end = Clock::now() + most; Clock::now() < end && !done();) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (TakeReason()) return false;
    }
    std::this_thread::yield();
  }
  return true;
}

void RequestQueue::Wait(Clock::duration awake) {
  if (!WaitUntil([] { return false; }, awake)) return;
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return TakeReason(); });
}

void RequestQueue::Wake() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    woken_ = true;
  }
  changed_.notify_all();
}

int RequestQueue::size() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(queued_.size());
}

int64_t RequestQueue::tokens() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return tokens_;
}

}  // namespace fla
