// Wakes one thread that has nothing to do.
#pragma once

#include <condition_variable>
#include <mutex>

namespace fla {

// Thread safety: Notify may be called from any thread, Wait by one.
class WakeSignal {
 public:
  // The Wait that runs, or else the next one, returns.
  void Notify() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      notified_ = true;
    }
    changed_.notify_one();
  }
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return notified_; });
    notified_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool notified_ = false;  // guarded by mutex_
};

}  // namespace fla
