// Loops shared among threads.
//
// Not OpenMP: its threads wait for each other at the end of every loop by spinning, which on
// machines that run anything else (other containers, gRPC's threads, a second test) turns loops of
// 100 microseconds into ones of 10 milliseconds. Here a thread that has not woken up by the end of
// a loop has no part in it and nobody waits for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace fla::cpu {

// Threads that a loop may use, the calling one included: OMP_NUM_THREADS, else as many as the
// process may run at once. At least 1.
int MaxThreads();
void SetMaxThreads(int threads);

// One loop: calls run(context, begin, end, thread) for pieces that together are [0, count).
struct ParallelLoop {
  void (*run)(void* context, int64_t begin, int64_t end, int thread) = nullptr;
  void* context = nullptr;
  int64_t count = 0;
  int64_t piece = 1;  // iterations that a thread takes at once
  int threads = 1;
};
void RunLoop(const ParallelLoop& loop);

// Calls body(i) or body(i, thread) once for each i in [0, count) and returns when all have
// returned. `thread` is below min(threads, MaxThreads()) and no two calls at a time have the same.
// body must not throw. A loop inside a loop, or while another thread runs one, stays on its calling
// thread.
//
// Thread safety: any thread at any time.
template <class Body>
void ParallelFor(int64_t count, int threads, Body&& body) {
  using Function = std::remove_reference_t<Body>;
  const auto run = [](void* context, int64_t begin, int64_t end, int thread) noexcept {
    auto& function = *static_cast<Function*>(context);
    for (int64_t i = begin; i < end; ++i) {
      if constexpr (std::is_invocable_v<Function&, int64_t, int>) {
        function(i, thread);
      } else {
        function(i);
      }
    }
  };
  threads = static_cast<int>(std::min<int64_t>({threads, MaxThreads(), count}));
  void* const context = const_cast<void*>(static_cast<const void*>(std::addressof(body)));
  if (threads <= 1) {
    run(context, 0, count, 0);
    return;
  }
  // Some pieces a thread, so that one that starts late or is interrupted delays little.
  RunLoop({run, context, count, std::max<int64_t>(1, count / (int64_t{8} * threads)), threads});
}

}  // namespace fla::cpu
