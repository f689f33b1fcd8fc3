#include "kernels/fp8.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace fla {
namespace {

constexpr float kLargest = 448.0f;
// Whose product with the least e4m3 number, 2^-9, is a normal bf16 number.
constexpr float kLeastScale = 0x1p-117f;

float ValueOf(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  float value;
  if (exponent == 15 && mantissa == 7) {
    value = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    value = std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  }
  return (bits & 0x80) != 0 ? -value : value;
}

}  // namespace

const std::array<float, 256>& E4M3Values() {
  static const std::array<float, 256> kValues = [] {
    std::array<float, 256> values{};
    for (int i = 0; i < 256; ++i) values[i] = ValueOf(static_cast<uint8_t>(i));
    return values;
  }();
  return kValues;
}

// Without branches, so that loops over it become vector code.
uint8_t ToE4M3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
  // Numbers from 2^-6 on: the mantissa rounded to 3 bits, the exponent's bias changed.
  const uint32_t normal = (magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20;
  const uint32_t rebiased = std::min(normal - ((127u - 7u) << 3), 0x7eu);
  // Below, multiples of 2^-9: what is left of the sum in f32, whose last place that is.
  const float sum = std::bit_cast<float>(magnitude) + 0x1p14f;
  const uint32_t subnormal = std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0x1p14f);
  const bool is_normal = magnitude >= std::bit_cast<uint32_t>(0x1p-6f);
  const uint32_t finite = is_normal ? rebiased : subnormal;
  return static_cast<uint8_t>(sign | (magnitude > 0x7f800000u ? 0x7fu : finite));
}

float Fp8Scale(std::span<const float> row) {
  // As integers, magnitudes compare as they do as numbers, and NaN is larger than all.
  uint32_t largest = 0;
  for (const float value : row) largest = std::max(largest, std::bit_cast<uint32_t>(value) << 1);
  const float magnitude = std::bit_cast<float>(largest >> 1);
  if (!(magnitude <= kMaxFp8Weight)) return std::numeric_limits<float>::quiet_NaN();
  const float quotient = magnitude / kLargest;
  if (quotient <= kLeastScale) return kLeastScale;
  int exponent = 0;
  const float fraction = std::frexp(quotient, &exponent);  // in [0.5, 1)
  return std::ldexp(1.0f, fraction == 0.5f ? exponent - 1 : exponent);
}

void RoundToFp8(std::span<const float> row, float scale, BFloat16* rounded) {
  const float inverse = 1.0f / scale;
  const std::array<float, 256>& values = E4M3Values();
  for (size_t i = 0; i < row.size(); ++i) {
    rounded[i] = BFloat16(values[ToE4M3(row[i] * inverse)] * scale);
  }
}

void PackFp8(std::span<const float> row, float scale, uint8_t* packed) {
  const float inverse = 1.0f / scale;
  for (size_t i = 0; i < row.size(); ++i) packed[i] = ToE4M3(row[i] * inverse);
}

}  // namespace fla
