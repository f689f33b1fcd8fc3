// One token of one head. The state streams from memory once to recall S^T k (delta rule only) and
// once to be decayed, written and read; the second time a block of columns is still in cache.
#include "kernels/cpu/recurrence_heads.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/recurrence_step.cc"
// clang-format off: foreach_target.h must come before highway.h.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/recurrence_rows-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace fla::cpu::HWY_NAMESPACE {

struct StepVectors {
  const float* q;          // [K] times scale
  const float* k;          // [K]
  const float* decayed_k;  // [K] alpha * k
  const float* alpha;      // [K]
  const float* v;          // [V]
  float beta;
  float* out;  // [V]
};

// Columns [column, column + kVectors * lanes) of the state; D has 1 lane for what is left over.
template <int kVectors, bool kDelta, class D>
HWY_INLINE void StepColumns(D d, const RecurrenceSpec& spec, const StepVectors& x, int column,
                            float* state) {
  using V = hn::Vec<D>;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int key_dim = spec.key_dim;
  float* const first = state + column;
  V written[kVectors], out[kVectors];
  HWY_UNROLL(4)
  for (int j = 0; j < kVectors; ++j) {
    written[j] = hn::LoadU(d, x.v + column + j * lanes);
    out[j] = hn::Zero(d);
  }
  if constexpr (kDelta) {
    V recalled[kVectors];
    HWY_UNROLL(4)
    for (int j = 0; j < kVectors; ++j) recalled[j] = hn::Zero(d);
    const float* row = first;
    for (int i = 0; i < key_dim; ++i, row += spec.value_dim) {
      const V k = hn::Set(d, x.decayed_k[i]);
      HWY_UNROLL(4)
      for (int j = 0; j < kVectors; ++j) {
        recalled[j] = hn::MulAdd(k, hn::LoadU(d, row + j * lanes), recalled[j]);
      }
    }
    HWY_UNROLL(4)
    for (int j = 0; j < kVectors; ++j) {
      written[j] = hn::Mul(hn::Set(d, x.beta), hn::Sub(written[j], recalled[j]));
    }
  }
  float* row = first;
  for (int i = 0; i < key_dim; ++i, row += spec.value_dim) {
    const V alpha = hn::Set(d, x.alpha[i]), k = hn::Set(d, x.k[i]), q = hn::Set(d, x.q[i]);
    HWY_UNROLL(4)
    for (int j = 0; j < kVectors; ++j) {
      const V decayed = hn::Mul(alpha, hn::LoadU(d, row + j * lanes));
      const V updated = hn::MulAdd(k, written[j], decayed);
      hn::StoreU(updated, d, row + j * lanes);
      out[j] = hn::MulAdd(q, updated, out[j]);
    }
  }
  HWY_UNROLL(4)
  for (int j = 0; j < kVectors; ++j) hn::StoreU(out[j], d, x.out + column + j * lanes);
}

template <bool kDelta>
HWY_INLINE void StepState(const RecurrenceSpec& spec, const StepVectors& x, float* state) {
  const FloatTag d;
  const hn::CappedTag<float, 1> d1;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int column = 0;
  for (; column + 4 * lanes <= spec.value_dim; column += 4 * lanes) {
    StepColumns<4, kDelta>(d, spec, x, column, state);
  }
  for (; column + lanes <= spec.value_dim; column += lanes) {
    StepColumns<1, kDelta>(d, spec, x, column, state);
  }
  for (; column < spec.value_dim; ++column) StepColumns<1, kDelta>(d1, spec, x, column, state);
}

void StepHead(const HeadTask& task) {
  const RecurrenceArgs& args = *task.args;
  const RecurrenceSpec& spec = args.spec;
  const int key_dim = spec.key_dim, value_dim = spec.value_dim;
  const int padded_key = PadLanes(key_dim);
  const int64_t t = task.sequence;
  float* const q = task.workspace;
  float* const k = q + padded_key;
  float* const decayed_k = k + padded_key;
  float* const alpha = decayed_k + padded_key;
  float* const v = alpha + padded_key;
  float* const out = v + PadLanes(value_dim);

  const int64_t k_column = HeadColumn(task.head, spec.k_heads, spec.heads, key_dim);
  LoadRow(args.q, t, HeadColumn(task.head, spec.q_heads, spec.heads, key_dim), key_dim, spec.scale,
          q);
  LoadRow(args.k, t, k_column, key_dim, 1.0f, k);
  LoadRow(args.k, t, k_column, key_dim, 1.0f, decayed_k);
  LoadRow(args.v, t, HeadColumn(task.head, spec.v_heads, spec.heads, value_dim), value_dim, 1.0f,
          v);
  if (spec.decay == Decay::kPerChannel) {
    LoadChannelAlpha(args, t, task.head, alpha);
  } else {
    for (int i = 0; i < padded_key; ++i) alpha[i] = LogDecayOfRow(args, t, task.head);
    ExpRow(padded_key, alpha);
  }
  MultiplyRow(alpha, padded_key, decayed_k);
  const bool delta = spec.update == Update::kDelta;
  const float beta = delta ? args.beta[t * spec.heads + task.head] : 1.0f;
  const StepVectors vectors{q, k, decayed_k, alpha, v, beta, out};
  if (delta) {
    StepState<true>(spec, vectors, HeadState(task));
  } else {
    StepState<false>(spec, vectors, HeadState(task));
  }
  StoreRow(out, args.out, t, int64_t{task.head} * value_dim, value_dim);
}

}  // namespace fla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fla::cpu {

HWY_EXPORT(StepHead);

size_t StepWorkspace(const RecurrenceSpec& spec) {
  return size_t{4} * PadLanes(spec.key_dim) + size_t{2} * PadLanes(spec.value_dim);
}

void StepHead(const HeadTask& task) { HWY_DYNAMIC_DISPATCH(StepHead)(task); }

}  // namespace fla::cpu
#endif  // HWY_ONCE
