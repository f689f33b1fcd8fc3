// A thread that turns events into messages and hands them to gRPC, so that engines do neither.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace fla {

// Runs posted work in order.
//
// Thread safety: Post may be called from any thread.
class WriterThread {
 public:
  WriterThread();
  // Runs what was posted, then joins.
  ~WriterThread();

  // `work` must not throw nor block.
  void Post(std::function<void()> work);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> work_;  // guarded by mutex_
  bool stopping_ = false;                   // guarded by mutex_
  std::thread thread_;                      // last: starts when all else is there
};

}  // namespace fla
