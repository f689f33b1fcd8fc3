// Weights in eight bits: a row of e4m3 numbers times a power of two, which is the row's scale.
//
// e4m3 has 3 bits behind the point of a number from 2^-6 to 448 (2^-9 below), so a scale between
// two powers of two would gain little (docs/numerics.md); and with a power of two every weight is a
// bf16 number. Whoever multiplies by it, as bytes or as bf16, on a CPU or a GPU, multiplies by the
// same.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kernels/tensor.h"

namespace fla {

// Of all bytes the number: 4 exponent bits, bias 7, and 3 mantissa bits. NaN where all seven are
// set, no infinities.
const std::array<float, 256>& E4M3Values();
inline float E4M3ToFloat(uint8_t bits) { return E4M3Values()[bits]; }

// The nearest, ties to even; beyond 448 the largest. NaN stays NaN.
uint8_t ToE4M3(float value);

// Larger magnitudes than this, infinities and NaN have no scale.
inline constexpr float kMaxFp8Weight = 448.0f * 128.0f;

// The least power of two by which the row's largest magnitude can be divided, for a row of zeros
// the least of all. NaN where a value has none.
float Fp8Scale(std::span<const float> row);

// What the row is held as, where bytes are not what the device reads: bf16 numbers. The scale is
// the row's.
void RoundToFp8(std::span<const float> row, float scale, BFloat16* rounded);

// Where it does read them: e4m3 numbers, one after the other. Their rows are multiples of kFp8Run.
inline constexpr int kFp8Run = 128;
void PackFp8(std::span<const float> row, float scale, uint8_t* packed);

}  // namespace fla
