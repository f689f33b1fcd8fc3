#include "server/writer_thread.h"

#include <utility>

namespace fla {

WriterThread::WriterThread() : thread_([this] { Run(); }) {}

WriterThread::~WriterThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void WriterThread::Post(std::function<void()> work) {
  bool was_empty;
  {
    const std::lock_guard lock(mutex_);
    was_empty = work_.empty();
    work_.push_back(std::move(work));
  }
  if (was_empty) wake_.notify_one();
}

void WriterThread::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !work_.empty(); });
    if (work_.empty()) return;
    std::deque<std::function<void()>> batch = std::exchange(work_, {});
    lock.unlock();
    while (!batch.empty()) {
      batch.front()();
      batch.pop_front();  // what the work holds is freed outside of the lock
    }
    lock.lock();
  }
}

}  // namespace fla
