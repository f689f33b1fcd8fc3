// The line in front of the engine: bounded, by priority and then by arrival.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "server/request.h"

namespace fla {

// A request with its place in the line: unique, ascending with the order of Push.
struct QueuedRequest {
  Request request;
  uint64_t arrival = 0;
};

// Thread safety: all methods may be called from any thread.
class RequestQueue {
 public:
  enum class PushResult { kQueued, kFull, kClosed };

  explicit RequestQueue(int capacity) : capacity_(capacity) {}

  // Queues all of `choices`, or none if they do not all fit or the queue is closed.
  PushResult Push(std::vector<Request> choices);

  // Takes the request of the lowest priority value, among those the one that came first.
  std::optional<QueuedRequest> Pop();

  // Takes all for which `condition` holds, in the order of Pop.
  std::vector<QueuedRequest> TakeIf(const std::function<bool(const Request&)>& condition);

  // Refuses every Push from now on. What is queued stays.
  void Close();

  // Blocks until something is queued or Wake was called since the last Wait.
  void Wait();
  void Wake();

  int size() const;

 private:
  const int capacity_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // All below: guarded by mutex_.
  std::map<std::pair<int, uint64_t>, Request> queued_;  // by (priority, arrival)
  uint64_t next_arrival_ = 0;
  bool closed_ = false;
  bool woken_ = false;
};

}  // namespace fla
