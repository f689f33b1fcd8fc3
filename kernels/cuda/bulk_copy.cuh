// Copies between global and shared memory that Hopper's copy engine makes by itself, and the
// barriers that they complete. The emulator of bench/cuda replaces this file: with chunk_tile.cuh
// and chained.cuh all inline assembly of decode.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/tile_map.h"

namespace fla::cuda {

// After InitBarrier, in the thread that called it: copies may then use the barrier.
__device__ __forceinline__ void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and lets the phase end only after that many bytes were copied. A clipped tile counts in
// full.
__device__ __forceinline__ void ArriveExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile(
      "{ .reg .b64 t; mbarrier.arrive.expect_tx.shared::cta.b64 t, [%0], %1; }" ::"r"(barrier),
      "r"(bytes)
      : "memory");
}

// The map's tile whose first element is (row, column), to dense rows at `target`, a multiple of 128
// bytes.
__device__ __forceinline__ void CopyTileToShared(uint32_t target, const TileMap& map, int row,
                                                 int column, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(target),
      "l"(&map.map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// Lets copies that are started after a barrier see what this thread wrote to shared memory.
__device__ __forceinline__ void PublishToCopies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The other way. The thread must wait for the copy's reads before the block ends.
__device__ __forceinline__ void CopyTileToGlobal(const TileMap& map, int row, int column,
                                                 uint32_t source) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map.map),
      "r"(column), "r"(row), "r"(source)
      : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all of this thread's copies to global memory have read their source. The end of the kernel
// waits for the writes.
__device__ __forceinline__ void WaitForTileReads() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

}  // namespace fla::cuda
