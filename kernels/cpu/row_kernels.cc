#include "kernels/cpu/row_kernels.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/check.h"

// clang-format off: foreach_target.h comes before every other header of Highway.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/row_kernels.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
// clang-format on

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fla::cpu::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using Vec = hn::Vec<F32>;

// The first `count` (< a vector) elements at p, then zeros. Not a masked load: before AVX2 that
// reads whole vectors, past the end and from aligned addresses only.
HWY_INLINE Vec LoadPart(const float* p, size_t count) {
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(lanes, p, count * sizeof(float));
  return hn::Load(F32(), lanes);
}

HWY_INLINE void StorePart(Vec v, float* p, size_t count) {
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(v, F32(), lanes);
  std::memcpy(p, lanes, count * sizeof(float));
}

// Calls body(load, store) for every vector of [0, count), the last one partial: load(p) reads the
// vector of p that it is at (zeros past the end), store(v, p) writes it.
template <class Body>
HWY_INLINE void ForEachVector(size_t count, Body body) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    body([&](const float* p) HWY_ATTR { return hn::LoadU(d, p + i); },
         [&](Vec v, float* p) HWY_ATTR { hn::StoreU(v, d, p + i); });
  }
  if (i < count) {
    body([&](const float* p) HWY_ATTR { return LoadPart(p + i, count - i); },
         [&](Vec v, float* p) HWY_ATTR { StorePart(v, p + i, count - i); });
  }
}

// exp that keeps NaN and does not leave the range where hn::Exp is defined.
HWY_INLINE Vec ExpKeepingNaN(Vec x) {
  const F32 d;
  const Vec limit = hn::Set(d, 100.0f);
  const Vec bounded = hn::IfThenElse(hn::Gt(x, limit), limit, x);
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(d, bounded));
}

HWY_INLINE Vec Sigmoid(Vec x) {
  const F32 d;
  const Vec one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, ExpKeepingNaN(hn::Neg(x))));
}

// log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)).
HWY_INLINE Vec Softplus(Vec x) {
  const F32 d;
  const Vec log1p = hn::Log1p(d, ExpKeepingNaN(hn::Neg(hn::Abs(x))));
  const Vec softplus = hn::Add(hn::ZeroIfNegative(x), log1p);
  return hn::IfThenElse(hn::IsNaN(x), x, softplus);
}

// sum_i coefficients[i] y^i.
template <size_t kCount>
HWY_INLINE Vec Polynomial(const float (&coefficients)[kCount], Vec y) {
  const F32 d;
  Vec sum = hn::Set(d, coefficients[kCount - 1]);
  for (size_t i = kCount - 1; i > 0; --i) {
    sum = hn::MulAdd(sum, y, hn::Set(d, coefficients[i - 1]));
  }
  return sum;
}

// The odd rational approximation of erf on [-4, 4] that Eigen uses too, to 5e-7; beyond, erf is 1
// in f32.
HWY_INLINE Vec Erf(Vec x) {
  constexpr float kNumerator[] = {-1.60960333262415e-02f, -2.95459980854025e-03f,
                                  -7.34990630326855e-04f, -5.69250639462346e-05f,
                                  -2.10102402082508e-06f, 2.77068142495902e-08f,
                                  -2.72614225801306e-10f};
  constexpr float kDenominator[] = {-1.42647390514189e-02f, -7.37332916720468e-03f,
                                    -1.68282697438203e-03f, -2.13374055278905e-04f,
                                    -1.45660718464996e-05f};
  const F32 d;
  const Vec one = hn::Set(d, 1.0f), limit = hn::Set(d, 4.0f);
  const Vec bounded = hn::IfThenElse(hn::Lt(hn::Abs(x), limit), x, hn::Zero(d));
  const Vec y = hn::Mul(bounded, bounded);
  const Vec inside =
      hn::Div(hn::Mul(bounded, Polynomial(kNumerator, y)), Polynomial(kDenominator, y));
  return hn::IfThenElse(hn::Ge(hn::Abs(x), limit), hn::CopySign(one, x), inside);
}

HWY_INLINE Vec Gelu(Vec x) {
  const F32 d;
  const Vec erf = Erf(hn::Mul(x, hn::Set(d, 0.70710678f)));
  const Vec gelu = hn::Mul(hn::Mul(hn::Set(d, 0.5f), x), hn::Add(hn::Set(d, 1.0f), erf));
  return hn::IfThenElse(hn::IsNaN(x), x, gelu);
}

template <class Visit>
HWY_INLINE void VisitActivation(Activation activation, Visit visit) {
  const F32 d;
  const Vec zero = hn::Zero(d), one = hn::Set(d, 1.0f);
  switch (activation) {
    case Activation::kIdentity:
      return visit([](Vec x) HWY_ATTR { return x; });
    case Activation::kSilu:
      return visit([](Vec x) HWY_ATTR { return hn::Mul(x, Sigmoid(x)); });
    case Activation::kSigmoid:
      return visit([](Vec x) HWY_ATTR { return Sigmoid(x); });
    case Activation::kRelu:
      return visit([&](Vec x) HWY_ATTR { return hn::IfThenElse(hn::Lt(x, zero), zero, x); });
    case Activation::kReluPlusEps:
      return visit([&](Vec x) HWY_ATTR {
        return hn::Add(hn::IfThenElse(hn::Lt(x, zero), zero, x), hn::Set(d, 1e-6f));
      });
    case Activation::kEluPlusOne:
      return visit([&](Vec x) HWY_ATTR {
        return hn::IfThenElse(hn::Gt(x, zero), hn::Add(x, one), ExpKeepingNaN(x));
      });
    case Activation::kGelu:
      return visit([](Vec x) HWY_ATTR { return Gelu(x); });
  }
}

void Activate(Activation activation, const float* x, size_t count, float* out) {
  VisitActivation(activation, [&](auto function) HWY_ATTR {
    ForEachVector(count, [&](auto load, auto store) HWY_ATTR { store(function(load(x)), out); });
  });
}

void Gate(Activation activation, const float* gate, const float* x, size_t count, float* out) {
  VisitActivation(activation, [&](auto function) HWY_ATTR {
    ForEachVector(count, [&](auto load, auto store)
                             HWY_ATTR { store(hn::Mul(load(x), function(load(gate))), out); });
  });
}

void LoadBFloat16(const uint16_t* from, size_t count, float* to) {
  const F32 d;
  const hn::RebindToUnsigned<F32> du;
  const hn::Rebind<uint16_t, F32> d16;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto wide = hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, from + i)));
    hn::StoreU(hn::BitCast(d, wide), d, to + i);
  }
  for (; i < count; ++i) to[i] = std::bit_cast<float>(uint32_t{from[i]} << 16);
}

void StoreBFloat16(const float* from, size_t count, uint16_t* to) {
  const F32 d;
  const hn::RebindToUnsigned<F32> du;
  const hn::Rebind<uint16_t, F32> d16;
  const hn::RebindToSigned<decltype(du)> di;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const Vec x = hn::LoadU(d, from + i);
    const auto bits = hn::BitCast(du, x);
    const auto high = hn::ShiftRight<16>(bits);
    const auto odd = hn::And(high, hn::Set(du, 1));
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fff))));
    const auto quiet_nan = hn::Or(high, hn::Set(du, 0x40));
    const auto chosen = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), quiet_nan, rounded);
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, chosen)), d16, to + i);
  }
  for (; i < count; ++i) to[i] = BFloat16(from[i]).bits;
}

// Sum of term(load) over all vectors in four accumulators, each in order, then added pairwise.
template <class Term>
HWY_INLINE float SumOf(size_t count, Term term) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  Vec sum0 = hn::Zero(d), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  size_t i = 0;
  const auto at = [&](size_t offset) HWY_ATTR {
    return term([&](const float* p) HWY_ATTR { return hn::LoadU(d, p + i + offset); });
  };
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    sum0 = hn::Add(sum0, at(0));
    sum1 = hn::Add(sum1, at(lanes));
    sum2 = hn::Add(sum2, at(2 * lanes));
    sum3 = hn::Add(sum3, at(3 * lanes));
  }
  for (; i + lanes <= count; i += lanes) sum0 = hn::Add(sum0, at(0));
  if (i < count) {
    sum1 = hn::Add(sum1, term([&](const float* p) HWY_ATTR { return LoadPart(p + i, count - i); }));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
}

float Sum(const float* x, size_t count) {
  return SumOf(count, [&](auto load) HWY_ATTR { return load(x); });
}

float Magnitudes(const float* x, size_t count) {
  return SumOf(count, [&](auto load) HWY_ATTR { return hn::Abs(load(x)); });
}

float Dot(const float* a, const float* b, size_t count) {
  return SumOf(count, [&](auto load) HWY_ATTR { return hn::Mul(load(a), load(b)); });
}

float Max(const float* x, size_t count) {
  const F32 d;
  const size_t lanes = hn::Lanes(d);
  Vec largest = hn::Set(d, x[0]);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) largest = hn::Max(largest, hn::LoadU(d, x + i));
  float max = hn::GetLane(hn::MaxOfLanes(d, largest));
  for (; i < count; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

void Add(const float* a, const float* b, size_t count, float* out) {
  ForEachVector(count,
                [&](auto load, auto store) HWY_ATTR { store(hn::Add(load(a), load(b)), out); });
}

void Multiply(const float* a, const float* b, size_t count, float* out) {
  ForEachVector(count,
                [&](auto load, auto store) HWY_ATTR { store(hn::Mul(load(a), load(b)), out); });
}

void Scale(const float* x, float scale, const float* weight, size_t count, float* out) {
  const Vec factor = hn::Set(F32(), scale);
  if (weight == nullptr) {
    ForEachVector(count,
                  [&](auto load, auto store) HWY_ATTR { store(hn::Mul(load(x), factor), out); });
  } else {
    ForEachVector(count, [&](auto load, auto store) HWY_ATTR {
      store(hn::Mul(hn::Mul(load(x), factor), load(weight)), out);
    });
  }
}

bool AllFinite(const float* x, size_t count) {
  const hn::RebindToUnsigned<F32> du;
  // Finite numbers are below infinity's bits once the sign is shifted out.
  const auto infinity = hn::Set(du, 0x7f800000u << 1);
  auto largest = hn::Zero(du);
  ForEachVector(count, [&](auto load, auto) HWY_ATTR {
    largest = hn::Max(largest, hn::ShiftLeft<1>(hn::BitCast(du, load(x))));
  });
  return hn::AllTrue(du, hn::Lt(largest, infinity));
}

float SumExp(const float* x, float shift, size_t count) {
  const Vec shifts = hn::Set(F32(), shift);
  const size_t lanes = hn::Lanes(F32());
  const size_t whole = count / lanes * lanes;
  const float sum =
      SumOf(whole, [&](auto load) HWY_ATTR { return ExpKeepingNaN(hn::Sub(load(x), shifts)); });
  float rest = 0.0f;  // not vectors, whose absent lanes would count as exp(-shift)
  for (size_t i = whole; i < count; ++i) rest += std::exp(x[i] - shift);
  return sum + rest;
}

void Exp(const float* x, float shift, float scale, size_t count, float* out) {
  const F32 d;
  const Vec shifts = hn::Set(d, shift), factor = hn::Set(d, scale);
  ForEachVector(count, [&](auto load, auto store) HWY_ATTR {
    store(ExpKeepingNaN(hn::Mul(hn::Sub(load(x), shifts), factor)), out);
  });
}

void LogDecay(const LogDecayHead& head, const float* x, size_t count, float* out) {
  const F32 d;
  const Vec a_scale = hn::Set(d, head.a_scale);
  const auto biased = [&](auto load) HWY_ATTR {
    return head.bias == nullptr ? load(x) : hn::Add(load(x), load(head.bias));
  };
  switch (head.kind) {
    case GateKind::kLogSigmoid: {
      const Vec normalizer = hn::Set(d, head.normalizer), floor = hn::Set(d, head.clamp_min);
      return ForEachVector(count, [&](auto load, auto store) HWY_ATTR {
        const Vec log_sigmoid = hn::Neg(Softplus(hn::Neg(load(x))));
        const Vec decay = hn::Div(log_sigmoid, normalizer);
        store(hn::IfThenElse(hn::Lt(decay, floor), floor, decay), out);
      });
    }
    case GateKind::kSoftplus:
      return ForEachVector(count, [&](auto load, auto store) HWY_ATTR {
        store(hn::Neg(hn::Mul(a_scale, Softplus(biased(load)))), out);
      });
    case GateKind::kBoundedSigmoid: {
      const Vec lower_bound = hn::Set(d, head.lower_bound);
      return ForEachVector(count, [&](auto load, auto store) HWY_ATTR {
        store(hn::Mul(lower_bound, Sigmoid(hn::Mul(a_scale, biased(load)))), out);
      });
    }
  }
}

void Convolve(const float* const* inputs, const float* taps, const float* bias, int width,
              size_t count, float* out) {
  const F32 d;
  ForEachVector(count, [&](auto load, auto store) HWY_ATTR {
    Vec sum = bias == nullptr ? hn::Zero(d) : load(bias);
    for (int j = 0; j < width; ++j) {
      sum = hn::MulAdd(load(taps + static_cast<size_t>(j) * count), load(inputs[j]), sum);
    }
    store(sum, out);
  });
}

}  // namespace
}  // namespace fla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fla::cpu {

HWY_EXPORT(Activate);
HWY_EXPORT(Gate);
HWY_EXPORT(LoadBFloat16);
HWY_EXPORT(StoreBFloat16);
HWY_EXPORT(Sum);
HWY_EXPORT(Magnitudes);
HWY_EXPORT(Dot);
HWY_EXPORT(Max);
HWY_EXPORT(Add);
HWY_EXPORT(Multiply);
HWY_EXPORT(Scale);
HWY_EXPORT(AllFinite);
HWY_EXPORT(SumExp);
HWY_EXPORT(Exp);
HWY_EXPORT(LogDecay);
HWY_EXPORT(Convolve);

void LoadFloats(DType dtype, const void* from, size_t count, float* to) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, count * sizeof(float));
      return;
    case DType::kBF16:
      return HWY_DYNAMIC_DISPATCH(LoadBFloat16)(static_cast<const uint16_t*>(from), count, to);
    case DType::kF16: {
      const auto* halves = static_cast<const uint16_t*>(from);
      for (size_t i = 0; i < count; ++i) to[i] = HalfToFloat(halves[i]);
      return;
    }
    case DType::kF8E4M3:
      FLA_CHECK(false);  // weights alone
  }
}

void StoreFloats(DType dtype, const float* from, size_t count, void* to) {
  FLA_CHECK(dtype != DType::kF16);
  if (dtype == DType::kF32) {
    std::memcpy(to, from, count * sizeof(float));
  } else {
    HWY_DYNAMIC_DISPATCH(StoreBFloat16)(from, count, static_cast<uint16_t*>(to));
  }
}

void ActivateFloats(Activation activation, const float* x, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(Activate)(activation, x, count, out);
}

void GateFloats(Activation activation, const float* gate, const float* x, size_t count,
                float* out) {
  HWY_DYNAMIC_DISPATCH(Gate)(activation, gate, x, count, out);
}

float SumFloats(const float* x, size_t count) { return HWY_DYNAMIC_DISPATCH(Sum)(x, count); }

float SumMagnitudes(const float* x, size_t count) {
  return HWY_DYNAMIC_DISPATCH(Magnitudes)(x, count);
}

float SumSquares(const float* x, size_t count) { return HWY_DYNAMIC_DISPATCH(Dot)(x, x, count); }

float DotFloats(const float* a, const float* b, size_t count) {
  return HWY_DYNAMIC_DISPATCH(Dot)(a, b, count);
}

float MaxFloats(const float* x, size_t count) { return HWY_DYNAMIC_DISPATCH(Max)(x, count); }

void AddFloats(const float* a, const float* b, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(Add)(a, b, count, out);
}

void MultiplyFloats(const float* a, const float* b, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(Multiply)(a, b, count, out);
}

void ScaleFloats(const float* x, float scale, const float* weight, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(Scale)(x, scale, weight, count, out);
}

bool AllFiniteFloats(const float* x, size_t count) {
  return HWY_DYNAMIC_DISPATCH(AllFinite)(x, count);
}

float SumExpFloats(const float* x, float shift, size_t count) {
  return HWY_DYNAMIC_DISPATCH(SumExp)(x, shift, count);
}

void ExpFloats(const float* x, float shift, float scale, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(Exp)(x, shift, scale, count, out);
}

void LogDecayFloats(const LogDecayHead& head, const float* x, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(LogDecay)(head, x, count, out);
}

void ConvolveFloats(const float* const* inputs, const float* taps, const float* bias, int width,
                    size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(Convolve)(inputs, taps, bias, width, count, out);
}

}  // namespace fla::cpu
#endif  // HWY_ONCE
