// The line in front of the engine: bounded, in the order of due times.
#pragma once

#include <chrono>
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

// When a request is due: when it was received, later by `aging` for each unit of its priority. To
// serve in this order is to serve by priority and then by arrival, with priorities that age: a
// request is passed only by those that come less than (its priority - theirs) * aging after it, so
// that none waits for ever, and no order among those that wait changes with time.
Clock::time_point DueTime(Clock::time_point received, int priority, Clock::duration aging);

// A request with its place in the line: unique, ascending with the order of Push.
struct QueuedRequest {
  Request request;
  uint64_t arrival = 0;
};

// Thread safety: all methods may be called from any thread.
class RequestQueue {
 public:
  enum class PushResult { kQueued, kTooManyRequests, kTooManyTokens, kClosed };

  // Takes up to `max_requests`, whose prompts have up to `max_tokens` in all; a prompt longer than
  // that waits alone.
  RequestQueue(int max_requests, int64_t max_tokens)
      : max_requests_(max_requests), max_tokens_(max_tokens) {}

  // Queues all of `choices`, or none if they do not all fit or the queue is closed.
  PushResult Push(std::vector<Request> choices);

  // Takes the request that is due first, among equals the one that came first.
  std::optional<QueuedRequest> Pop(Clock::time_point now);

  // How long it takes, at the pace of the last Pops, until half of the queue is free again, or
  // room for `requests`: when one that was refused should come back. From 100 ms to a minute.
  std::chrono::milliseconds RetryAfter(int requests) const;

  // Takes all for which `condition` holds, in the order of Pop.
  std::vector<QueuedRequest> TakeIf(const std::function<bool(const Request&)>& condition);

  // Refuses every Push from now on. What is queued stays.
  void Close();

  // Blocks until something is queued or Wake was called since the last Wait. For the first `awake`
  // it does not let the thread sleep, which would take many microseconds to wake.
  void Wait(Clock::duration awake = {});
  // The same until `done` says yes, asked all the time by a thread that does not sleep, or until
  // `most` has passed: false if Wait would have returned.
  bool WaitUntil(const std::function<bool()>& done, Clock::duration most);
  void Wake();

  int size() const;
  int64_t tokens() const;  // of all prompts

 private:
  const int max_requests_;
  const int64_t max_tokens_;
  bool TakeReason();  // to return from Wait; with mutex_ held

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // All below: guarded by mutex_.
  std::map<std::pair<Clock::time_point, uint64_t>, Request> queued_;  // by (due, arrival)
  int64_t tokens_ = 0;                                                // of their prompts
  // Mean time between Pops while requests wait, the last few counting most.
  std::optional<Clock::duration> pace_;
  std::optional<Clock::time_point> last_pop_;  // none: nothing waited since
  uint64_t next_arrival_ = 0;
  bool closed_ = false;
  bool woken_ = false;
};

}  // namespace fla
