// The small matrix products of the chunked form, on padded f32 tiles. Per-target code: included by
// the sources that foreach_target.h compiles.
//
// Every output element is one chain of multiply-adds over the inner index, in order, so results do
// not depend on how a product is cut into tiles.
#include "kernels/cpu/recurrence_rows-inl.h"

#if defined(FLA_KERNELS_CPU_RECURRENCE_MATMUL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLA_KERNELS_CPU_RECURRENCE_MATMUL_INL_H_
#undef FLA_KERNELS_CPU_RECURRENCE_MATMUL_INL_H_
#else
#define FLA_KERNELS_CPU_RECURRENCE_MATMUL_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace fla::cpu::HWY_NAMESPACE {

// Rows of a register tile: 8 x 2 sums fill the 32 registers of AVX-512, 4 x 2 the 16 of the others.
inline constexpr int kTileRows = HWY_MAX_BYTES >= 64 ? 8 : 4;

// out[kRows, kVectors * lanes] += a[kRows, depth] b[depth, kVectors * lanes].
template <int kRows, int kVectors>
HWY_INLINE void MultiplyAddTile(Tile a, Tile b, int depth, Tile out) {
  const FloatTag d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  FloatVec sum[kRows][kVectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(2)
    for (int j = 0; j < kVectors; ++j) sum[r][j] = hn::Load(d, out.Row(r) + j * lanes);
  }
  for (int p = 0; p < depth; ++p) {
    FloatVec b_row[kVectors];
    HWY_UNROLL(2)
    for (int j = 0; j < kVectors; ++j) b_row[j] = hn::Load(d, b.Row(p) + j * lanes);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      const FloatVec a_value = hn::Set(d, a.Row(r)[p]);
      HWY_UNROLL(2)
      for (int j = 0; j < kVectors; ++j) sum[r][j] = hn::MulAdd(a_value, b_row[j], sum[r][j]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(2)
    for (int j = 0; j < kVectors; ++j) hn::Store(sum[r][j], d, out.Row(r) + j * lanes);
  }
}

template <int kVectors>
HWY_INLINE void MultiplyAddColumns(Tile a, Tile b, int rows, int depth, Tile out) {
  int r = 0;
  for (; r + kTileRows <= rows; r += kTileRows) {
    MultiplyAddTile<kTileRows, kVectors>(a.At(r, 0), b, depth, out.At(r, 0));
  }
  for (; r < rows; ++r) MultiplyAddTile<1, kVectors>(a.At(r, 0), b, depth, out.At(r, 0));
}

// out[rows, columns] += a[rows, depth] b[depth, columns]; columns a multiple of kLanePadding.
inline HWY_NOINLINE void MultiplyAdd(Tile a, Tile b, int rows, int depth, int columns, Tile out) {
  const int lanes = static_cast<int>(hn::Lanes(FloatTag()));
  int c = 0;
  for (; c + 2 * lanes <= columns; c += 2 * lanes) {
    MultiplyAddColumns<2>(a, b.At(0, c), rows, depth, out.At(0, c));
  }
  if (c < columns) MultiplyAddColumns<1>(a, b.At(0, c), rows, depth, out.At(0, c));
}

// x <- (I - n)^-1 x in place by forward substitution; n [rows, rows] strictly lower triangular
// (what stands on and above its diagonal is not read), x [rows, columns].
inline HWY_NOINLINE void SolveUnitLower(Tile n, int rows, int columns, Tile x) {
  const FloatTag d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int c = 0; c < columns; c += lanes) {
    for (int t = 1; t < rows; ++t) {
      FloatVec sum = hn::Load(d, x.Row(t) + c);
      for (int s = 0; s < t; ++s) {
        sum = hn::MulAdd(hn::Set(d, n.Row(t)[s]), hn::Load(d, x.Row(s) + c), sum);
      }
      hn::Store(sum, d, x.Row(t) + c);
    }
  }
}

// Sum of a[i] * b[i] over padded rows.
HWY_INLINE float Dot(const float* a, const float* b, int padded_count) {
  const FloatTag d;
  FloatVec sum = hn::Zero(d);
  for (int i = 0; i < padded_count; i += static_cast<int>(hn::Lanes(d))) {
    sum = hn::MulAdd(hn::Load(d, a + i), hn::Load(d, b + i), sum);
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// to[column, row] = from[row, column]: `rows` rows of `columns` columns.
HWY_INLINE void Transpose(Tile from, int rows, int columns, Tile to) {
  for (int c = 0; c < columns; ++c) {
    for (int r = 0; r < rows; ++r) to.Row(c)[r] = from.Row(r)[c];
  }
}

}  // namespace fla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // FLA_KERNELS_CPU_RECURRENCE_MATMUL_INL_H_
