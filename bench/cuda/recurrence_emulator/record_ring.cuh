// Stands in for kernels/cuda/record_ring.cuh under the emulator, which runs one block at a time.
#pragma once

#include "bench/cuda/recurrence_emulator/emulator.h"

namespace fla::cuda {

inline int Take(int* counter) { return (*counter)++; }
inline int Look(const int* place) { return *place; }
inline void Publish(int* place, int number) { *place = number; }
inline void Put(int* place, int number) { *place = number; }
inline void Pause() { emulator::Yield(); }

}  // namespace fla::cuda
