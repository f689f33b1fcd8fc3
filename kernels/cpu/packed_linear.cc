#include "kernels/cpu/packed_linear.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/panel_product.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
namespace {

// Rows of x that one task multiplies with a panel, which stays in the second-level cache.
constexpr int64_t kTaskRows = 256;

// What a last panel of fewer rows is filled up to with zeros where oneDNN has no product so narrow
// (bf16, up to 16): gates of a few columns stand at the end of the weights of most models.
constexpr int64_t kNarrowPanel = 32;

// The panels of a packed weight: all of kPanelWeights rows but the last. They lie behind a head of
// kHeadBytes, which holds this, so that a product is looked for once, when a weight is packed.
struct Panels {
  static constexpr size_t kHeadBytes = 64;

  explicit Panels(const Matrix& weight)
      : count((weight.rows + kPanelWeights - 1) / kPanelWeights),
        last(weight.rows - (count - 1) * kPanelWeights),
        full_product(count > 1 ? PanelProduct::Find(weight.dtype, weight.cols, kPanelWeights)
                               : nullptr),
        last_product(PanelProduct::Find(weight.dtype, weight.cols, last)) {
    if (last_product == nullptr && count > 1 && last < kNarrowPanel) {
      last_product = PanelProduct::Find(weight.dtype, weight.cols, kNarrowPanel);
    }
  }

  bool supported() const {
    return last_product != nullptr && (count == 1 || full_product != nullptr);
  }
  int64_t Columns(int64_t panel) const { return panel + 1 < count ? kPanelWeights : last; }
  const PanelProduct& Product(int64_t panel) const {
    return panel + 1 < count ? *full_product : *last_product;
  }
  size_t Offset(int64_t panel) const {
    return kHeadBytes + (panel == 0 ? 0 : panel * full_product->panel_bytes());
  }

  int64_t count, last;
  const PanelProduct* full_product;
  const PanelProduct* last_product;
};
static_assert(sizeof(Panels) <= Panels::kHeadBytes && std::is_trivially_copyable_v<Panels>);

// x as contiguous rows, those that a tile reads beyond it (their products are not used) included.
const char* ContiguousRows(Stream& stream, Matrix x, int64_t rows_read) {
  if (x.contiguous() && rows_read == x.rows) return x.Row<const char>(0);
  const int64_t row_bytes = x.cols * static_cast<int64_t>(SizeOf(x.dtype));
  auto* copy = static_cast<char*>(stream.Scratch(rows_read * row_bytes));
  for (int64_t row = 0; row < x.rows; ++row) {
    std::memcpy(copy + row * row_bytes, x.Rows(row, 1).data, row_bytes);
  }
  std::memset(copy + x.rows * row_bytes, 0, (rows_read - x.rows) * row_bytes);
  return copy;
}

}  // namespace

size_t PackedLinearBytes(DType dtype, int64_t rows, int64_t cols) {
  if (rows == 0 || cols == 0 || (dtype != DType::kF32 && dtype != DType::kBF16)) return 0;
  const Panels panels({nullptr, dtype, rows, cols, cols});
  if (!panels.supported()) return 0;
  return panels.Offset(panels.count - 1) + panels.last_product->panel_bytes();
}

void BeginPacking(Matrix shape, void* target) {
  const Panels panels(shape);
  FLA_CHECK(panels.supported());
  std::memcpy(target, &panels, sizeof panels);
}

void PackPanel(int64_t panel, const void* rows, void* target) {
  const Panels& panels = *static_cast<const Panels*>(target);
  const PanelProduct& product = panels.Product(panel);
  char* const packed = static_cast<char*>(target) + panels.Offset(panel);
  if (panels.Columns(panel) == product.columns()) return product.Pack(rows, packed);
  const size_t row_bytes = product.row_bytes();
  std::vector<char> filled(product.columns() * row_bytes, 0);
  std::memcpy(filled.data(), rows, panels.Columns(panel) * row_bytes);
  product.Pack(filled.data(), packed);
}

void PackLinear(Matrix weight, void* target) {
  BeginPacking(weight, target);
  const int64_t panels = (weight.rows + kPanelWeights - 1) / kPanelWeights;
  ParallelFor(panels, MaxThreads(), [&](int64_t panel) {
    PackPanel(panel, weight.Rows(panel * kPanelWeights, 1).data, target);
  });
}

void PackedLinear(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out) {
  if (x.rows == 0) return;
  const Panels& panels = *static_cast<const Panels*>(weight.data);
  const auto tile_rows = [](int64_t left) {
    return static_cast<int>(left >= kLongTile ? kLongTile : std::min<int64_t>(left, kShortTile));
  };
  const int64_t rest = x.rows % kShortTile;
  const int64_t rows_read =
      x.rows - rest + (rest == 0 ? 0 : panels.last_product->TileRows(static_cast<int>(rest)));
  const int64_t row_bytes = x.cols * static_cast<int64_t>(SizeOf(x.dtype));
  const char* const rows = ContiguousRows(stream, x, rows_read);

  const int64_t groups = (x.rows + kTaskRows - 1) / kTaskRows;
  const bool parallel = x.rows * weight.rows * x.cols > kParallelProducts;
  ParallelFor(panels.count * groups, parallel ? MaxThreads() : 1, [&](int64_t task) {
    const int64_t panel = task / groups, columns = panels.Columns(panel);
    const PanelProduct& product = panels.Product(panel);
    const void* const packed = static_cast<const char*>(weight.data) + panels.Offset(panel);
    const float* const panel_bias = bias == nullptr ? nullptr : bias + panel * kPanelWeights;
    alignas(64) float tile[kLongTile * kPanelWeights];
    const int64_t end = std::min(x.rows, (task % groups + 1) * kTaskRows);
    for (int64_t row = task % groups * kTaskRows; row < end;) {
      const int count = tile_rows(end - row);
      product.Multiply(product.TileRows(count), rows + row * row_bytes, packed, tile);
      StoreProducts(tile, product.columns(), panel_bias,
                    out.Rows(row, count).Columns(panel * kPanelWeights, columns));
      row += count;
    }
  });
}

}  // namespace fla::cpu
