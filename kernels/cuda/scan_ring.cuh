// The ring of stages in shared memory between a scan's loading and computing warps.
#pragma once

namespace fla::cuda {

// Position in the ring: the stage, and the parity of how often the ring has been gone round.
struct RingPosition {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void Advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace fla::cuda
