#include "kernels/cpu/parallel.h"

#include <atomic>
#include <cstdlib>
#include <thread>

namespace fla::cpu {
namespace {

// Polls before a thread sleeps: some 20 microseconds, the time between two loops of a layer.
constexpr int kPolls = 300;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits until `value` is no longer `old`.
template <class T>
void WaitWhile(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kPolls; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

// Workers that sleep between loops. It is never destroyed: its threads may run until exit.
//
// A loop is open while iterations are left to hand out. A worker enters an open loop only, and the
// caller, once all are handed out, closes it and waits for the workers inside. The loop's fields
// change only while it is closed and empty.
//
// Thread safety: Run from any thread.
class WorkerPool {
 public:
  // Runs the loop unless another one is running.
  bool TryRun(const ParallelLoop& loop) {
    if (busy_.test_and_set(std::memory_order_acquire)) return false;
    for (; num_workers_ < loop.threads - 1; ++num_workers_) {
      std::thread(&WorkerPool::Work, this, num_workers_ + 1).detach();
    }
    loop_ = loop;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(kOpen, std::memory_order_release);
    number_.fetch_add(1, std::memory_order_release);
    number_.notify_all();
    TakePieces(0);
    uint32_t inside = gate_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
    while (inside != 0) {
      WaitWhile(gate_, inside);
      inside = gate_.load(std::memory_order_acquire);
    }
    busy_.clear(std::memory_order_release);
    return true;
  }

 private:
  static constexpr uint32_t kOpen = uint32_t{1} << 31;

  void TakePieces(int thread) {
    for (;;) {
      const int64_t begin = next_.fetch_add(loop_.piece, std::memory_order_relaxed);
      if (begin >= loop_.count) return;
      loop_.run(loop_.context, begin, std::min(begin + loop_.piece, loop_.count), thread);
    }
  }

  bool TryEnter() {
    uint32_t gate = gate_.load(std::memory_order_acquire);
    while (gate & kOpen) {
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }

  void Work(int thread) {
    uint32_t seen = 0;
    for (;;) {
      WaitWhile(number_, seen);
      seen = number_.load(std::memory_order_acquire);
      if (!TryEnter()) continue;
      if (thread < loop_.threads) TakePieces(thread);
      if (gate_.fetch_sub(1, std::memory_order_acq_rel) == 1) gate_.notify_one();
    }
  }

  std::atomic_flag busy_;
  int num_workers_ = 0;              // of the thread that holds busy_
  ParallelLoop loop_;                // written while closed and empty, read inside
  std::atomic<int64_t> next_{0};     // first iteration that nobody has taken
  std::atomic<uint32_t> gate_{0};    // kOpen | workers inside
  std::atomic<uint32_t> number_{0};  // of loops so far: what sleeping workers wait on
};

int DefaultThreads() {
  const char* const wanted = std::getenv("OMP_NUM_THREADS");
  const int threads = wanted == nullptr ? 0 : std::atoi(wanted);
  return threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::atomic<int>& ThreadLimit() {
  static std::atomic<int> limit{DefaultThreads()};
  return limit;
}

}  // namespace

int MaxThreads() { return ThreadLimit().load(std::memory_order_relaxed); }

void SetMaxThreads(int threads) { ThreadLimit().store(std::max(1, threads)); }

void RunLoop(const ParallelLoop& loop) {
  static WorkerPool& pool = *new WorkerPool;
  if (!pool.TryRun(loop)) loop.run(loop.context, 0, loop.count, 0);
}

}  // namespace fla::cpu
