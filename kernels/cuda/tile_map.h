// What the copy engine of Hopper (TMA) is told of a matrix of which it copies tiles.
#pragma once

#include <cuda.h>

#include "kernels/tensor.h"

namespace fla::cuda {

// A kernel takes it as a `const __grid_constant__` parameter, so recorded graphs hold it.
struct TileMap {
  CUtensorMap map;
};

// Of a row-major matrix [any number of rows, columns], aligned to 16 bytes, its rows too. Tiles are
// [tile_rows, tile_columns], at most 256 each. What lies right of the matrix is read as 0 and not
// written; no tile may reach below its last row. Throws DeviceError, naming the driver's call.
TileMap MakeTileMap(void* matrix, DType dtype, int columns, int tile_rows, int tile_columns);

// Of a matrix of bf16 or e4m3, aligned to 16 bytes, its rows too. Tiles are [tile_rows, 64] (e4m3:
// 128), at most 256 rows, and become panels of wgmma (warpgroup.cuh). Columns are named in steps of
// 16 bits. What lies outside the matrix is read as 0.
TileMap MakePanelMap(const Matrix& matrix, int tile_rows);

// The same where a tile pairs rows of the matrix's upper and lower half: eight of the one, then
// eight of the other. Half of its rows are a multiple of 8.
TileMap MakePairedPanelMap(const Matrix& matrix, int tile_rows);

// The same where a tile is [tile_rows, 64 (128) tile_panels]: its panels follow each other.
// Of `paired` matrices half of a tile's rows are of the upper half and half of the lower.
TileMap MakePanelsMap(const Matrix& matrix, int tile_rows, int tile_panels, bool paired);

// Of an f32 matrix [any number of rows, columns], likewise aligned. Tiles are [tile_rows, 32]: a
// dense panel. No tile may reach below the last row.
TileMap MakeFloatPanelMap(float* matrix, int columns, int tile_rows);

// Of bf16 rows, each a row of heads [heads, head_dim], rows and heads aligned to 16 bytes. Tiles
// are one head's [tile_rows, 64], panels of wgmma. What lies right of the head is read as 0; no
// tile may reach below the last row.
TileMap MakeHeadMap(const void* rows, int64_t stride, int heads, int head_dim, int tile_rows);

}  // namespace fla::cuda
