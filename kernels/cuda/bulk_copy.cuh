// Copies between global and shared memory that Hopper's copy engine makes by itself, and the
// barriers that they complete. The emulator of bench/cuda replaces this file.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/tile_map.h"

namespace fla::cuda {

// Cache policies, as createpolicy would make them: what is read once leaves the L2 cache first,
// what all blocks read stays longest, and so does what is written back a little later.
constexpr uint64_t kReadOnce = 0x12f0000000000000, kReadByAll = 0x14f0000000000000,
                   kWrittenBack = kReadByAll;
constexpr uint64_t kReadAgain = 0x1000000000000000;  // as loads are

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

__device__ __forceinline__ void CopyTileToShared(uint32_t target, const TileMap& map, int row,
                                                 int column, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(target),
      "l"(&map.map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
      : "memory");
}

// Begins to fetch the map, which the first copy by it would wait for.
__device__ __forceinline__ void PrefetchTileMap(const TileMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map.map) : "memory");
}

// The map's panel (MakeHeadMap) of a head whose first row and column are given.
__device__ __forceinline__ void CopyHeadPanelToShared(uint32_t target, const TileMap& map, int head,
                                                      int row, int column, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(target),
      "l"(&map.map), "r"(column), "r"(row), "r"(head), "r"(barrier)
      : "memory");
}
// `bytes` as they lie in memory, all a multiple of 16.
__device__ __forceinline__ void CopyToShared(uint32_t target, const void* source, uint32_t bytes,
                                             uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(target),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}

// The same by a map of MakePanelMap, to a panel.
__device__ __forceinline__ void CopyPanelToShared(uint32_t target, const TileMap& map, int row,
                                                  int column, uint32_t barrier, uint64_t policy) {
  CopyTileToShared(target, map, row, column, barrier, policy);
}
// A panel to the same place in each of the cluster's `blocks`, a bit each, whose barriers at the
// same place count its bytes.
__device__ __forceinline__ void CopyPanelToBlocks(uint32_t target, const TileMap& map, int row,
                                                  int column, uint32_t barrier, uint16_t blocks,
                                                  uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(target),
      "l"(&map.map), "r"(column), "r"(row), "r"(barrier), "h"(blocks), "l"(policy)
      : "memory");
}

// By a map of MakePairedPanelMap. `row`, of a half, is a multiple of 8.
__device__ __forceinline__ void CopyPairedPanelToShared(uint32_t target, const TileMap& map,
                                                        int row, int column, uint32_t barrier,
                                                        uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %3, %4}], [%5], %6;" ::"r"(target),
      "l"(&map.map), "r"(column), "r"(0), "r"(row / 8), "r"(barrier), "l"(policy)
      : "memory");
}

// The same to the same place in each of the cluster's `blocks`, as CopyPanelToBlocks.
__device__ __forceinline__ void CopyPairedPanelToBlocks(uint32_t target, const TileMap& map,
                                                        int row, int column, uint32_t barrier,
                                                        uint16_t blocks, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3, %3, %4}], [%5], %6, %7;" ::"r"(
          target),
      "l"(&map.map), "r"(column), "r"(0), "r"(row / 8), "r"(barrier), "h"(blocks), "l"(policy)
      : "memory");
}

// The tile of a map of MakePanelsMap (row of a half where it is paired) or MakeFloatPanelMap whose
// first row and first panel are given.
__device__ __forceinline__ void CopyPanelsToShared(uint32_t target, const TileMap& map, int row,
                                                   int panel, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3, %2, %4}], [%5], %6;" ::"r"(target),
      "l"(&map.map), "r"(0), "r"(row), "r"(panel), "r"(barrier), "l"(policy)
      : "memory");
}
// Where chunk `chunk` of 16 bytes of a panel's row at `row` is.
__device__ __forceinline__ uint32_t SwizzledChunk(uint32_t row, int chunk) {
  return row + ((chunk ^ (row >> 7 & 7)) << 4);
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
// `bytes` of shared memory as they lie there, all a multiple of 16.
__device__ __forceinline__ void CopyToGlobal(void* target, uint32_t source, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(target),
               "r"(source), "r"(bytes)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all of this thread's copies to global memory but the last kPending have read their source.
// The end of the kernel waits for the writes.
template <int kPending = 0>
__device__ __forceinline__ void WaitForReads() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

}  // namespace fla::cuda
