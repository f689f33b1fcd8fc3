// What one thread did before it called gRPC is there for the callback that gRPC makes because of it
// on another. ThreadSanitizer cannot see that: the distribution's gRPC is not built for it. These
// two tell it; without it they are nothing.
#pragma once

#ifdef FLA_THREAD_SANITIZER  // by proto/thread_sanitizer.h
#include <sanitizer/tsan_interface.h>
#endif

namespace fla {

// Before a call into gRPC that leads to a callback of `reactor`, and at the end of a callback after
// which there may be another.
inline void GiveToGrpc([[maybe_unused]] void* reactor) {
#ifdef FLA_THREAD_SANITIZER
  __tsan_release(reactor);
#endif
}

// First in every callback.
inline void TakeFromGrpc([[maybe_unused]] void* reactor) {
#ifdef FLA_THREAD_SANITIZER
  __tsan_acquire(reactor);
#endif
}

}  // namespace fla
