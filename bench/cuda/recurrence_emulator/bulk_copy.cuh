// Stands in for kernels/cuda/bulk_copy.cuh and tile_map.h under the emulator. Copies happen at
// once; what the copy engine would refuse aborts.
#pragma once

#include <cstdlib>
#include <cstring>

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/tensor.h"

namespace fla::cuda {

struct TileMap {
  char* matrix;
  int row_bytes, tile_rows, tile_bytes, element;  // of a row of the matrix, of the tile
  int64_t stride;                                 // in bytes, of rows of heads
  int heads;
};

inline TileMap MakeTileMap(void* matrix, DType dtype, int columns, int tile_rows,
                           int tile_columns) {
  const int element = static_cast<int>(SizeOf(dtype));
  const TileMap map = {static_cast<char*>(matrix), columns * element, tile_rows,
                       tile_columns * element, element};
  if (reinterpret_cast<uintptr_t>(matrix) % 16 != 0 || map.row_bytes % 16 != 0 ||
      map.tile_bytes % 16 != 0 || tile_rows > 256 || tile_columns > 256) {
    std::abort();
  }
  return map;
}

// Of one head a row is what `row_bytes` says.
inline TileMap MakeHeadMap(const void* rows, int64_t stride, int heads, int head_dim,
                           int tile_rows) {
  const TileMap map = {static_cast<char*>(const_cast<void*>(rows)),
                       2 * head_dim,
                       tile_rows,
                       128,
                       2,
                       2 * stride,
                       heads};
  if (reinterpret_cast<uintptr_t>(rows) % 16 != 0 || map.stride % 16 != 0 ||
      map.row_bytes % 16 != 0 || tile_rows > 256) {
    std::abort();
  }
  return map;
}

constexpr uint64_t kWrittenBack = 0;

inline void PublishBarriers() {}

// `unused` counts the bytes that are awaited, in units of 16.
inline void EndPhaseIfComplete(EmulatedBarrier& b) {
  if (b.pending > 0 || b.unused != 0) return;
  b.pending = b.count;
  b.phase ^= 1;
}
inline void ArriveExpecting(uint32_t barrier, uint32_t bytes) {
  if (bytes % 16 != 0 || bytes >= 1 << 20) std::abort();
  EmulatedBarrier& b = BarrierAt(barrier);
  --b.pending;
  b.unused = static_cast<uint16_t>(b.unused + bytes / 16);
  EndPhaseIfComplete(b);
}

inline void CountCopied(uint32_t barrier, int bytes) {
  EmulatedBarrier& b = BarrierAt(barrier);
  b.unused = static_cast<uint16_t>(b.unused - bytes / 16);
  EndPhaseIfComplete(b);
}

// Calls copy(place in the matrix, place in the tile, bytes) for each row.
template <typename Copy>
void ForEachTileRow(const TileMap& map, int row, int column, uint32_t tile, const Copy& copy) {
  const int begin = column * map.element, bytes = std::min(map.tile_bytes, map.row_bytes - begin);
  if (tile % 128 != 0 || row < 0 || begin < 0 || bytes <= 0) std::abort();
  for (int i = 0; i < map.tile_rows; ++i) {
    copy(map.matrix + static_cast<int64_t>(row + i) * map.row_bytes + begin,
         shared + tile + i * map.tile_bytes, bytes);
  }
}
inline void CopyTileToShared(uint32_t target, const TileMap& map, int row, int column,
                             uint32_t barrier) {
  ForEachTileRow(map, row, column, target, [&](const char* from, char* to, int bytes) {
    std::memcpy(to, from, bytes);
    std::memset(to + bytes, 0, map.tile_bytes - bytes);
  });
  CountCopied(barrier, map.tile_rows * map.tile_bytes);
}
inline void CopyTileToShared(uint32_t target, const TileMap& map, int row, int column,
                             uint32_t barrier, uint64_t /*policy*/) {
  CopyTileToShared(target, map, row, column, barrier);
}
inline void CopyHeadPanelToShared(uint32_t target, const TileMap& map, int head, int row,
                                  int column, uint32_t barrier) {
  if (target % 1024 != 0 || head < 0 || head >= map.heads || row < 0 || column < 0) std::abort();
  for (int i = 0; i < map.tile_rows; ++i) {
    for (int byte = 0; byte < map.tile_bytes; byte += 2) {
      const int from = column * map.element + byte;
      char* const to = shared + target + i * 128 + (byte / 16 ^ i % 8) * 16 + byte % 16;
      if (from >= map.row_bytes) {
        std::memset(to, 0, 2);
        continue;
      }
      std::memcpy(to, map.matrix + (row + i) * map.stride + head * map.row_bytes + from, 2);
    }
  }
  CountCopied(barrier, map.tile_rows * map.tile_bytes);
}
inline void CopyToShared(uint32_t target, const void* source, uint32_t bytes, uint32_t barrier) {
  if (reinterpret_cast<uintptr_t>(source) % 16 != 0 || target % 16 != 0 || bytes % 16 != 0) {
    std::abort();
  }
  std::memcpy(shared + target, source, bytes);
  CountCopied(barrier, static_cast<int>(bytes));
}
inline void PublishToCopies() {}
inline void CopyTileToGlobal(const TileMap& map, int row, int column, uint32_t source) {
  ForEachTileRow(map, row, column, source,
                 [](char* to, const char* from, int bytes) { std::memcpy(to, from, bytes); });
}
inline void CopyToGlobal(void* target, uint32_t source, uint32_t bytes) {
  if (reinterpret_cast<uintptr_t>(target) % 16 != 0 || source % 16 != 0 || bytes % 16 != 0) {
    std::abort();
  }
  std::memcpy(target, shared + source, bytes);
}
template <int kPending = 0>
inline void WaitForReads() {}

}  // namespace fla::cuda
