// What a block of StepProgramKernel (step_program.cu) has: the ring that its copying warp fills,
// and the shared memory of its computing warps.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/step_program.h"

namespace fla::cuda {

constexpr int kComputeThreads = kProgramThreads;
constexpr int kComputeWarps = kComputeThreads / 32;

__device__ __forceinline__ void SyncComputeThreads() { SyncThreads<kComputeThreads>(1); }

// threadIdx.x, as the compiler does not know: it would keep what all ops derive from it in
// registers throughout the kernel, and leave none for the products' operands.
__device__ __forceinline__ int ThreadOfBlock() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// A use of a slot of the ring.
struct RingCursor {
  int slot = 0, parity = 0;  // parity: of how many times the slot was used before
};

// A slot is free when so many have released it: the warps of a group, which read it together.
constexpr int kRingReleases = kComputeWarps / kProgramGroups;

// Slots of shared memory, filled and emptied in turn; addresses are shared ones.
struct Ring {
  const char* begin;
  uint32_t address, full, empty;
  int slots;

  __device__ __forceinline__ void Advance(RingCursor& at, int count) const {
    at.slot += count;
#pragma unroll 1
    while (at.slot >= slots) at.slot -= slots, at.parity ^= 1;
  }
  __device__ __forceinline__ const char* Slot(RingCursor at) const {
    return begin + at.slot * kProgramSlotBytes;
  }
  __device__ __forceinline__ uint32_t Address(RingCursor at) const {
    return address + at.slot * kProgramSlotBytes;
  }
  __device__ __forceinline__ uint32_t FullBarrier(RingCursor at) const {
    return full + at.slot * 8;
  }
  __device__ __forceinline__ void AwaitFull(RingCursor at) const {
    Wait(FullBarrier(at), at.parity);
  }
  __device__ __forceinline__ void AwaitEmpty(RingCursor at) const {
    Wait(empty + at.slot * 8, at.parity ^ 1);
  }
  // By kRingReleases threads, behind all reads.
  __device__ __forceinline__ void Release(RingCursor at) const { Arrive(empty + at.slot * 8); }
};

struct MixerShared;

struct Block {
  Ring ring;
  RingCursor cursor;  // of the next slot, the same in all computing threads
  int op;             // that the block is at
  int state_slot;     // -1: the row is padding
  float2 residual;    // this thread's two columns
  char* staged;       // x of a linear (StagedX)
  MixerShared* mixer;
  float* sums;      // of slots, by the four warps that multiplied them, [slots, 4, 8]
  float* of_parts;  // what the input's norm makes of its sums, [256]
  const MixerItem* first_item;
  // The last op whose input was there, in shared memory; by atomics, for no barrier stands between
  // who sets it and the copier, which only guesses by it.
  int* multiplied;
};

// Tiles that a block has.
struct Share {
  int begin, count;
};
// The last blocks have one more: the first ones have a mixer's items.
__device__ __forceinline__ Share ShareOf(int base, int rest) {
  const int b = blockIdx.x, without = gridDim.x - rest;
  return {b * base + max(0, b - without), base + (b >= without ? 1 : 0)};
}

}  // namespace fla::cuda
