// Rows of matrices as f32, whatever their element type.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/tensor.h"

namespace fla::cpu {

// Elements an op must touch before it is worth waking other threads (some 10 us of work).
inline constexpr int64_t kParallelElements = 16384;

// Multiply-adds below which waking threads costs a matrix product more than it saves.
inline constexpr int64_t kParallelProducts = 1 << 17;

// Threads for an op that touches that many.
inline int ThreadsFor(int64_t elements) { return elements > kParallelElements ? MaxThreads() : 1; }

// `count` elements of a row from column `begin` on: the row itself where it is f32, else a copy in
// `buffer`. Valid while both live.
inline const float* ReadRow(const Matrix& x, int64_t row, int64_t begin, int64_t count,
                            std::vector<float>& buffer) {
  if (x.dtype == DType::kF32) return x.Row<const float>(row) + begin;
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
  LoadFloats(x.dtype, x.Row<const uint16_t>(row) + begin, count, buffer.data());
  return buffer.data();
}

// Where to write such a row: the row itself where it is f32, else `buffer`. FinishRow stores it.
inline float* OpenRow(const Matrix& out, int64_t row, int64_t begin, int64_t count,
                      std::vector<float>& buffer) {
  if (out.dtype == DType::kF32) return out.Row<float>(row) + begin;
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(count);
  return buffer.data();
}

inline void FinishRow(const Matrix& out, int64_t row, int64_t begin, int64_t count,
                      const float* written) {
  if (out.dtype == DType::kF32) return;
  StoreFloats(out.dtype, written, count, out.Row<uint16_t>(row) + begin);
}

// out = products + bias (which may be null), in out's type. The products' rows are `pitch` floats
// apart and are written to.
inline void StoreProducts(float* products, int64_t pitch, const float* bias, Matrix out) {
  for (int64_t row = 0; row < out.rows; ++row, products += pitch) {
    if (bias != nullptr) AddFloats(products, bias, out.cols, products);
    StoreFloats(out.dtype, products, out.cols, out.Rows(row, 1).data);
  }
}

}  // namespace fla::cpu
