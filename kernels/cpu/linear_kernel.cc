#include "kernels/cpu/linear_kernel.h"

#include <algorithm>
#include <bit>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_kernel.cc"
// Arrays of vectors need vectors of a size known at compile time.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#ifndef FLA_KERNELS_CPU_LINEAR_KERNEL_UNROLL_
#define FLA_KERNELS_CPU_LINEAR_KERNEL_UNROLL_
// Accumulators live in registers only once these loops are gone, which -O2 alone does not do.
#define FLA_UNROLL _Pragma("GCC unroll 16")
#endif

HWY_BEFORE_NAMESPACE();
namespace fla::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;
constexpr size_t kMaxLanes = HWY_MAX_BYTES / sizeof(float);

#if HWY_TARGET == HWY_SCALAR

HWY_INLINE void SumLanesOfFour(Vec a, Vec b, Vec c, Vec e, float* HWY_RESTRICT out) {
  out[0] = hn::GetLane(a);
  out[1] = hn::GetLane(b);
  out[2] = hn::GetLane(c);
  out[3] = hn::GetLane(e);
}

#else

template <class D, class V>
HWY_INLINE void SumBlocks(D d, V sums, float* HWY_RESTRICT out) {
  if constexpr (hn::MaxLanes(d) <= 4) {
    hn::StoreU(sums, d, out);
  } else {
    const hn::Half<D> half;
    SumBlocks(half, hn::Add(hn::LowerHalf(half, sums), hn::UpperHalf(half, sums)), out);
  }
}

// out[i] = the sum of the lanes of the i-th vector: a transpose within 128-bit blocks, then the
// blocks in halves.
HWY_INLINE void SumLanesOfFour(Vec a, Vec b, Vec c, Vec e, float* HWY_RESTRICT out) {
  const F32 d;
  const hn::Repartition<double, F32> d64;
  const Vec ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const Vec ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto ab64 = hn::BitCast(d64, ab), ce64 = hn::BitCast(d64, ce);
  SumBlocks(d,
            hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab64, ce64)),
                    hn::BitCast(d, hn::InterleaveUpper(d64, ab64, ce64))),
            out);
}

#endif

// The rows of a tile as the kernel has them: a tile of 3 or 5 rows gets one of zeros.
constexpr size_t PaddedTileRows(size_t rows) {
  return rows <= 2 ? rows : rows <= 4 ? 4 : kTileRows;
}

// How the kernel reads a weight row: `kVectors` vectors of f32 a step.
struct F32Weight {
  using Element = float;
  static constexpr size_t kVectors = 1;

  static HWY_INLINE void Load(const float* from, Vec (&to)[1]) { to[0] = hn::LoadU(F32(), from); }
};

#if HWY_TARGET == HWY_SCALAR

struct BFloat16Weight {
  using Element = uint16_t;
  static constexpr size_t kVectors = 1;

  static HWY_INLINE void Load(const uint16_t* from, Vec (&to)[1]) {
    to[0] = hn::Set(F32(), std::bit_cast<float>(uint32_t{*from} << 16));
  }
};

#else

// bf16: a step's even elements, then its odd ones, each one instruction from a loaded vector.
struct BFloat16Weight {
  using Element = uint16_t;
  static constexpr size_t kVectors = 2;
  using U16 = hn::Repartition<uint16_t, F32>;
  using U32 = hn::Repartition<uint32_t, F32>;

  static HWY_INLINE void Split(hn::Vec<U16> pairs, Vec (&to)[2]) {
    const F32 d;
    const U32 du;
    const auto words = hn::BitCast(du, pairs);
    to[0] = hn::BitCast(d, hn::ShiftLeft<16>(words));
    to[1] = hn::BitCast(d, hn::And(words, hn::Set(du, 0xffff0000u)));
  }
  static HWY_INLINE void Load(const uint16_t* from, Vec (&to)[2]) {
    Split(hn::LoadU(U16(), from), to);
  }
};

#endif

// out[i * kPanelColumns + j] (+)= x_i . w_j over `length` elements of K, for kRows rows of a packed
// tile and kColumns weight rows. A row of weight that is absent repeats another one.
template <class Weight, int kRows, int kColumns>
HWY_NOINLINE void MultiplyTile(const float* HWY_RESTRICT x,
                               const typename Weight::Element* const* weight_rows, size_t length,
                               bool add, float* HWY_RESTRICT out) {
  const F32 d;
  constexpr size_t kVectors = Weight::kVectors;
  const size_t lanes = hn::Lanes(d), step = kVectors * lanes;
  const typename Weight::Element* w[kColumns];
  for (int j = 0; j < kColumns; ++j) w[j] = weight_rows[j];
  Vec sums[kRows][kColumns];
  FLA_UNROLL for (int i = 0; i < kRows; ++i) {
    FLA_UNROLL for (int j = 0; j < kColumns; ++j) sums[i][j] = hn::Zero(d);
  }
  HWY_ALIGN typename Weight::Element rest[kColumns][kVectors * kMaxLanes];
  for (size_t k = 0; k < length; k += step) {
    size_t at = k;
    if (HWY_UNLIKELY(k + step > length)) {  // a last partial step reads a copy, padded with zeros
      std::fill_n(&rest[0][0], sizeof(rest) / sizeof(rest[0][0]), typename Weight::Element{});
      for (int j = 0; j < kColumns; ++j) {
        std::copy(w[j] + k, w[j] + length, rest[j]);
        w[j] = rest[j];
      }
      at = 0;
    }
    Vec x_k[kVectors][kRows];
    FLA_UNROLL for (size_t v = 0; v < kVectors; ++v) {
      FLA_UNROLL for (int i = 0; i < kRows; ++i) {
        x_k[v][i] = hn::Load(d, x + (v * kRows + i) * lanes);
      }
    }
    FLA_UNROLL for (int j = 0; j < kColumns; ++j) {
      Vec w_k[kVectors];
      Weight::Load(w[j] + at, w_k);
      FLA_UNROLL for (size_t v = 0; v < kVectors; ++v) {
        FLA_UNROLL for (int i = 0; i < kRows; ++i) {
          sums[i][j] = hn::MulAdd(x_k[v][i], w_k[v], sums[i][j]);
        }
      }
    }
    x += kRows * step;
  }
  FLA_UNROLL for (int i = 0; i < kRows; ++i) {
    FLA_UNROLL for (int j = 0; j < kColumns; j += 4) {
      alignas(16) float dots[4];
      SumLanesOfFour(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3], dots);
      float* to = out + i * kPanelColumns + j;
      for (int n = 0; n < 4; ++n) to[n] = add ? to[n] + dots[n] : dots[n];
    }
  }
}

template <class Weight, int kRows>
HWY_INLINE void MultiplyTileRow(const float* x, Matrix weight, size_t begin, size_t length,
                                float* out) {
  // Few rows leave registers for more columns, and so more memory streams in flight.
  constexpr int kColumns = kRows <= 2 ? 8 : 4;
  const size_t columns = static_cast<size_t>(weight.rows);
  for (size_t n = 0; n < columns; n += kColumns) {
    const typename Weight::Element* rows[kColumns];
    for (size_t j = 0; j < kColumns; ++j) {
      rows[j] = weight.Row<const typename Weight::Element>(std::min(n + j, columns - 1)) + begin;
    }
    MultiplyTile<Weight, kRows, kColumns>(x, rows, length, begin > 0, out + n);
  }
}

template <class Weight>
void Multiply(const float* packed, size_t rows, Matrix weight, float* out) {
  const size_t length = static_cast<size_t>(weight.cols);
  for (size_t begin = 0; begin < length; begin += kDotBlock) {
    const size_t block = std::min<size_t>(kDotBlock, length - begin);
    for (size_t m = 0; m < rows; m += kTileRows) {
      const size_t tile_rows = PaddedTileRows(std::min<size_t>(kTileRows, rows - m));
      const float* x = packed + m / kTileRows * PackedSize(kTileRows, length) + tile_rows * begin;
      float* to = out + m * kPanelColumns;
      switch (tile_rows) {
        case 1:
          MultiplyTileRow<Weight, 1>(x, weight, begin, block, to);
          break;
        case 2:
          MultiplyTileRow<Weight, 2>(x, weight, begin, block, to);
          break;
        case 4:
          MultiplyTileRow<Weight, 4>(x, weight, begin, block, to);
          break;
        default:
          MultiplyTileRow<Weight, kTileRows>(x, weight, begin, block, to);
      }
    }
  }
}

void MultiplyF32(const float* packed, size_t rows, Matrix weight, float* out) {
  Multiply<F32Weight>(packed, rows, weight, out);
}

void MultiplyBFloat16(const float* packed, size_t rows, Matrix weight, float* out) {
  Multiply<BFloat16Weight>(packed, rows, weight, out);
}

template <class Weight>
HWY_INLINE void Pack(Matrix x, float* packed) {
  using Element = typename Weight::Element;
  const F32 d;
  const size_t lanes = hn::Lanes(d), step = Weight::kVectors * lanes;
  const size_t length = static_cast<size_t>(x.cols), rows = static_cast<size_t>(x.rows);
  const size_t tile_rows = PaddedTileRows(rows);
  for (size_t i = 0; i < tile_rows; ++i) {
    for (size_t k = 0; k < length; k += step) {
      HWY_ALIGN Element elements[Weight::kVectors * kMaxLanes] = {};
      if (i < rows) {
        const Element* row = x.Row<const Element>(static_cast<int64_t>(i)) + k;
        std::copy(row, row + std::min(step, length - k), elements);
      }
      Vec vectors[Weight::kVectors];
      Weight::Load(elements, vectors);
      for (size_t v = 0; v < Weight::kVectors; ++v) {
        hn::Store(vectors[v], d, packed + tile_rows * k + (v * tile_rows + i) * lanes);
      }
    }
  }
}

void PackF32(Matrix x, float* packed) { Pack<F32Weight>(x, packed); }
void PackBFloat16(Matrix x, float* packed) { Pack<BFloat16Weight>(x, packed); }

}  // namespace
}  // namespace fla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fla::cpu {

HWY_EXPORT(MultiplyF32);
HWY_EXPORT(MultiplyBFloat16);
HWY_EXPORT(PackF32);
HWY_EXPORT(PackBFloat16);

void PackTile(Matrix x, float* packed) {
  if (x.dtype == DType::kF32) {
    HWY_DYNAMIC_DISPATCH(PackF32)(x, packed);
  } else {
    HWY_DYNAMIC_DISPATCH(PackBFloat16)(x, packed);
  }
}

void MultiplyPanel(const float* packed, size_t rows, Matrix weight, float* out) {
  if (weight.dtype == DType::kF32) {
    HWY_DYNAMIC_DISPATCH(MultiplyF32)(packed, rows, weight, out);
  } else {
    HWY_DYNAMIC_DISPATCH(MultiplyBFloat16)(packed, rows, weight, out);
  }
}

}  // namespace fla::cpu
#endif  // HWY_ONCE
