#include "server/request_queue.h"

namespace fla {

RequestQueue::PushResult RequestQueue::Push(std::vector<Request> choices) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return PushResult::kClosed;
    if (queued_.size() + choices.size() > static_cast<size_t>(capacity_)) return PushResult::kFull;
    for (Request& request : choices) {
      const std::pair<int, uint64_t> key(request.priority, next_arrival_++);
      queued_.emplace(key, std::move(request));
    }
  }
  changed_.notify_all();
  return PushResult::kQueued;
}

std::optional<QueuedRequest> RequestQueue::Pop() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (queued_.empty()) return std::nullopt;
  auto node = queued_.extract(queued_.begin());
  return QueuedRequest{std::move(node.mapped()), node.key().second};
}

std::vector<QueuedRequest> RequestQueue::TakeIf(
    const std::function<bool(const Request&)>& condition) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::vector<QueuedRequest> taken;
  for (auto it = queued_.begin(); it != queued_.end();) {
    if (condition(it->second)) {
      taken.push_back({std::move(it->second), it->first.second});
      it = queued_.erase(it);
    } else {
      ++it;
    }
  }
  return taken;
}

void RequestQueue::Close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
}

void RequestQueue::Wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return woken_ || !queued_.empty(); });
  woken_ = false;
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

}  // namespace fla
