// Where warps are in a ring of stages in shared memory: those that load, those that compute.
#pragma once

namespace fla::cuda {

// The stage, and the parity of how often the ring has been gone round.
struct RingPosition {
  int stage = 0, parity = 0;

  __device__ __forceinline__ int Before(int stages) const { return (stage + stages - 1) % stages; }
  __device__ __forceinline__ void Advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace fla::cuda
