// The inner loops of Linear (kernels/cpu/linear.cc), compiled for every instruction set.
//
// Every output is a dot product over K in vectors: products accumulate in one vector, in order of K
// within a block of kDotBlock elements; its lanes are added by one fixed tree; the blocks' sums are
// added in order. Nothing of this depends on the number of rows, on the tile an output falls in or
// on the thread that computes it: a row's result is bitwise the same alone and in any batch.
#pragma once

#include <cstddef>

#include "kernels/tensor.h"

namespace fla::cpu {

inline constexpr int kDotBlock = 1024;  // elements of K whose x tile stays in the first-level cache
inline constexpr int kTileRows = 6;     // rows of x that one pass over the weight serves
inline constexpr int kPanelColumns = 32;  // weight rows that one task multiplies
inline constexpr int kPanelRows = 96;  // x rows that one task multiplies, a multiple of kTileRows

// Floats that a packed tile of `rows` rows of `length` elements takes.
constexpr size_t PackedSize(size_t rows, size_t length) {
  constexpr size_t kUnit = 128;  // two of the widest vectors that any target has, in floats
  return rows * ((length + kUnit - 1) / kUnit * kUnit);
}

// Up to kTileRows rows of x as f32 in the order in which the kernel reads them: vector by vector,
// within one row by row, zeros past K.
void PackTile(Matrix x, float* packed);

// out[m * kPanelColumns + n] = x_m . w_n. `packed` holds `rows` (<= kPanelRows) rows of x in tiles
// of kTileRows, the last one maybe smaller, PackedSize(kTileRows, K) floats apart. `weight` has up
// to kPanelColumns rows and x's element type. `out` has room for whole tiles and for all
// kPanelColumns.
void MultiplyPanel(const float* packed, size_t rows, Matrix weight, float* out);

}  // namespace fla::cpu
