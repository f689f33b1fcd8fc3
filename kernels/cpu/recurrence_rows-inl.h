// Rows of q, k, v, gates and out as padded f32 vectors. Per-target code: included by the sources
// that foreach_target.h compiles.
#include <cstdint>
#include <cstring>

#include "kernels/cpu/recurrence_heads.h"
#include "kernels/tensor.h"

#if defined(FLA_KERNELS_CPU_RECURRENCE_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FLA_KERNELS_CPU_RECURRENCE_ROWS_INL_H_
#undef FLA_KERNELS_CPU_RECURRENCE_ROWS_INL_H_
#else
#define FLA_KERNELS_CPU_RECURRENCE_ROWS_INL_H_
#endif

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fla::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using FloatTag = hn::CappedTag<float, kLanePadding>;
using FloatVec = hn::Vec<FloatTag>;

// A [rows, stride] block of the workspace; rows start at multiples of 64 bytes.
struct Tile {
  float* data = nullptr;
  int stride = 0;

  float* Row(int row) const { return data + static_cast<ptrdiff_t>(row) * stride; }
  Tile At(int row, int column) const { return {Row(row) + column, stride}; }
};

// Cuts the workspace into tiles; without memory it counts the floats.
class Workspace {
 public:
  explicit Workspace(float* data) : data_(data) {}

  Tile Take(int rows, int columns) {
    const int stride = PadLanes(columns);
    Tile tile{data_ == nullptr ? nullptr : data_ + used_, stride};
    used_ += static_cast<size_t>(rows) * stride;
    return tile;
  }
  size_t used() const { return used_; }

 private:
  float* data_;
  size_t used_ = 0;
};

HWY_INLINE void ClearRows(Tile tile, int rows) {
  std::memset(tile.data, 0, sizeof(float) * static_cast<size_t>(rows) * tile.stride);
}

// to[0..count) = scale * from, zeros up to the padding.
HWY_INLINE void LoadFloats(const float* from, int count, float scale, float* to) {
  const FloatTag d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const FloatVec factor = hn::Set(d, scale);
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::Store(hn::Mul(factor, hn::LoadU(d, from + i)), d, to + i);
  }
  for (; i < count; ++i) to[i] = scale * from[i];
  for (; i < PadLanes(count); ++i) to[i] = 0.0f;
}

HWY_INLINE void LoadBFloat16s(const BFloat16* from, int count, float scale, float* to) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const FloatVec factor = hn::Set(d, scale);
  const auto* bits = reinterpret_cast<const uint16_t*>(from);
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto wide = hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, bits + i)));
    hn::Store(hn::Mul(factor, hn::BitCast(d, wide)), d, to + i);
  }
  for (; i < count; ++i) to[i] = scale * static_cast<float>(from[i]);
  for (; i < PadLanes(count); ++i) to[i] = 0.0f;
}

// Columns [column, column + count) of a row of an f32 or bf16 matrix, times `scale`.
HWY_INLINE void LoadRow(const Matrix& matrix, int64_t row, int64_t column, int count, float scale,
                        float* to) {
  if (matrix.dtype == DType::kBF16) {
    LoadBFloat16s(matrix.Row<BFloat16>(row) + column, count, scale, to);
  } else {
    LoadFloats(matrix.Row<float>(row) + column, count, scale, to);
  }
}

// Rounds as BFloat16(float) does: to nearest even, NaN stays NaN.
HWY_INLINE void StoreBFloat16s(const float* from, int count, BFloat16* to) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const int lanes = static_cast<int>(hn::Lanes(d));
  auto* bits = reinterpret_cast<uint16_t*>(to);
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    const FloatVec value = hn::Load(d, from + i);
    const auto wide = hn::BitCast(du, value);
    const auto odd = hn::And(hn::ShiftRight<16>(wide), hn::Set(du, 1));
    const auto rounded = hn::Add(wide, hn::Add(odd, hn::Set(du, 0x7fff)));
    const auto quiet = hn::Or(wide, hn::Set(du, 0x400000));
    const auto kept = hn::IfThenElse(hn::RebindMask(du, hn::Eq(value, value)), rounded, quiet);
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, hn::ShiftRight<16>(kept))), d16, bits + i);
  }
  for (; i < count; ++i) to[i] = BFloat16(from[i]);
}

// Writes columns [column, column + count) of a row of an f32 or bf16 matrix.
HWY_INLINE void StoreRow(const float* from, const Matrix& matrix, int64_t row, int64_t column,
                         int count) {
  if (matrix.dtype == DType::kBF16) {
    StoreBFloat16s(from, count, matrix.Row<BFloat16>(row) + column);
  } else {
    std::memcpy(matrix.Row<float>(row) + column, from, sizeof(float) * count);
  }
}

// row[i] *= factor[i] over a padded row.
HWY_INLINE void MultiplyRow(const float* factor, int padded_count, float* row) {
  const FloatTag d;
  for (int i = 0; i < padded_count; i += static_cast<int>(hn::Lanes(d))) {
    hn::Store(hn::Mul(hn::Load(d, factor + i), hn::Load(d, row + i)), d, row + i);
  }
}

// row[i] *= factor over a padded row.
HWY_INLINE void ScaleRow(float factor, int padded_count, float* row) {
  const FloatTag d;
  const FloatVec factors = hn::Set(d, factor);
  for (int i = 0; i < padded_count; i += static_cast<int>(hn::Lanes(d))) {
    hn::Store(hn::Mul(factors, hn::Load(d, row + i)), d, row + i);
  }
}

// alpha = exp(log_decay) over a padded row, in place. NaN stays NaN (Highway's Exp makes it 0).
HWY_INLINE void ExpRow(int padded_count, float* row) {
  const FloatTag d;
  for (int i = 0; i < padded_count; i += static_cast<int>(hn::Lanes(d))) {
    const FloatVec x = hn::Load(d, row + i);
    // exp(-200) is 0 in f32 already; the bound keeps -infinity out of Highway's range reduction.
    const FloatVec bounded = hn::IfThenElse(hn::Lt(x, hn::Set(d, -200.0f)), hn::Set(d, -200.0f), x);
    hn::Store(hn::IfThenElse(hn::Eq(x, x), hn::Exp(d, bounded), x), d, row + i);
  }
}

// First column of the input head that head `head` of `heads` reads.
HWY_INLINE int64_t HeadColumn(int head, int input_heads, int heads, int dim) {
  return int64_t{head / (heads / input_heads)} * dim;
}

// Decays that are equal in all channels: the log decay of token t.
HWY_INLINE float LogDecayOfRow(const RecurrenceArgs& args, int64_t t, int head) {
  const RecurrenceSpec& spec = args.spec;
  if (spec.decay == Decay::kNone) return 0.0f;
  if (spec.decay == Decay::kPerHead) return args.log_decay[head];
  return args.log_decay[t * spec.decay_heads + HeadColumn(head, spec.decay_heads, spec.heads, 1)];
}

// Decays per channel: the alphas [K] of token t.
HWY_INLINE void LoadChannelAlpha(const RecurrenceArgs& args, int64_t t, int head, float* to) {
  const RecurrenceSpec& spec = args.spec;
  const int key_dim = spec.key_dim;
  const float* const row = args.log_decay + t * spec.decay_heads * key_dim;
  LoadFloats(row + HeadColumn(head, spec.decay_heads, spec.heads, key_dim), key_dim, 1.0f, to);
  ExpRow(PadLanes(key_dim), to);
}

// The [K, V] state of a task's head; rows are V floats apart.
HWY_INLINE float* HeadState(const HeadTask& task) {
  const RecurrenceSpec& spec = task.args->spec;
  const int64_t head = int64_t{task.args->slots[task.sequence]} * spec.heads + task.head;
  return static_cast<float*>(task.args->state) + head * spec.key_dim * spec.value_dim;
}

}  // namespace fla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // FLA_KERNELS_CPU_RECURRENCE_ROWS_INL_H_
