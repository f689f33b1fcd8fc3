// x [rows, K] times a panel of a weight's rows, by oneDNN, for a few fixed numbers of rows.
#pragma once

#include <array>
#include <cstdint>
#include <dnnl.hpp>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/tensor.h"

namespace fla::cpu {

inline constexpr int kPanelWeights = 128;  // weight rows (columns of the product) of a panel
inline constexpr int kShortTile = 16;      // rows of x
inline constexpr int kLongTile = 64;

// Thread safety: any thread at any time.
class PanelProduct {
 public:
  // The product for panels of `columns` weight rows of `length` elements, made at the first call;
  // null where oneDNN has none of which a row's result is the same in tiles of all sizes. Lives as
  // long as the process.
  static const PanelProduct* Find(DType dtype, int64_t length, int64_t columns);

  int64_t columns() const { return columns_; }
  size_t row_bytes() const { return length_ * SizeOf(dtype_); }
  // Bytes of a packed panel, a multiple of 64, and the packing of one from contiguous rows.
  size_t panel_bytes() const { return panel_bytes_; }
  void Pack(const void* rows, void* panel) const;

  // Rows that a tile of `rows` (1..kShortTile, or kLongTile) reads and writes: as many, or, where
  // all short tiles are one, kShortTile.
  int TileRows(int rows) const;
  // out [rows, columns] f32 = x [rows, length] panel^T, both contiguous, rows one of TileRows.
  void Multiply(int rows, const void* x, const void* panel, float* out) const;

 private:
  PanelProduct(DType dtype, int64_t length, int64_t columns);
  bool RowsAreTheSameInAllTiles() const;

  struct Tile {
    dnnl::matmul::primitive_desc description;
    dnnl::matmul primitive;
  };
  const Tile& TileOf(int rows) const;

  DType dtype_;
  int64_t length_, columns_;
  int index_;  // among all
  bool supported_ = false;
  dnnl::memory::desc panel_;
  size_t panel_bytes_ = 0;
  std::array<std::optional<Tile>, kShortTile + 1> short_;
  std::optional<Tile> long_;
};

}  // namespace fla::cpu
