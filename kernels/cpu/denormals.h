#pragma once

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

namespace fla::cpu {

// While it lives, this thread's denormal floats count as 0. A state that decays ends among them,
// and each operation on one costs a hundred others.
class DenormalsAreZero {
 public:
#ifdef __SSE2__
  DenormalsAreZero() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | kFlushToZero | kInputsAreZero); }
  ~DenormalsAreZero() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kFlushToZero = 0x8000, kInputsAreZero = 0x0040;
  unsigned saved_;
#else
  DenormalsAreZero() {}
#endif
};

}  // namespace fla::cpu
