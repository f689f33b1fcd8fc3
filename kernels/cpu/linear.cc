#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/linear_kernel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
void Linear(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out) {
  FLA_CHECK(x.dtype == weight.dtype && x.dtype != DType::kF16);
  if (weight.packed) return PackedLinear(stream, x, weight, bias, out);
  const int64_t tiles = (x.rows + kTileRows - 1) / kTileRows;
  const auto tile_size = static_cast<int64_t>(PackedSize(kTileRows, x.cols));
  auto* packed = static_cast<float*>(stream.Scratch(tiles * tile_size * sizeof(float)));
  const bool parallel = x.rows * weight.rows * x.cols > kParallelProducts;

  ParallelFor(tiles, parallel && x.rows * x.cols > kParallelElements ? MaxThreads() : 1,
              [&](int64_t tile) {
                const int64_t begin = tile * kTileRows;
                PackTile(x.Rows(begin, std::min<int64_t>(kTileRows, x.rows - begin)),
                         packed + tile * tile_size);
              });

  const int64_t row_panels = (x.rows + kPanelRows - 1) / kPanelRows;
  const int64_t column_panels = (weight.rows + kPanelColumns - 1) / kPanelColumns;
  ParallelFor(row_panels * column_panels, parallel ? MaxThreads() : 1, [&](int64_t task) {
    const int64_t m = task % row_panels * kPanelRows;
    const int64_t n = task / row_panels * kPanelColumns;
    const int64_t rows = std::min<int64_t>(kPanelRows, x.rows - m);
    const int64_t columns = std::min<int64_t>(kPanelColumns, weight.rows - n);
    // MultiplyTile writes whole groups of columns, so the last panel is as wide as any.
    alignas(64) float panel[kPanelRows * kPanelColumns];
    MultiplyPanel(packed + m / kTileRows * tile_size, rows, weight.Rows(n, columns), panel);
    StoreProducts(panel, kPanelColumns, bias == nullptr ? nullptr : bias + n,
                  out.Rows(m, rows).Columns(n, columns));
  });
}

}  // namespace fla::cpu
