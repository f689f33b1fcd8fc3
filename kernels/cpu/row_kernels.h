// Vector loops over one row of f32, compiled for every instruction set and chosen at run time.
// Every sum has one fixed order for a given length and instruction set. NaN inputs give NaN.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace fla::cpu {

// Conversions to and from f32; StoreFloats rounds to nearest even.
void LoadFloats(DType dtype, const void* from, size_t count, float* to);
void StoreFloats(DType dtype, const float* from, size_t count, void* to);

// out = activation(x); out may be x.
void ActivateFloats(Activation activation, const float* x, size_t count, float* out);
// out = x * activation(gate); out may be x or gate.
void GateFloats(Activation activation, const float* gate, const float* x, size_t count, float* out);

float SumFloats(const float* x, size_t count);
float SumMagnitudes(const float* x, size_t count);
float SumSquares(const float* x, size_t count);
float DotFloats(const float* a, const float* b, size_t count);
float MaxFloats(const float* x, size_t count);  // count > 0, no NaN

// out = a + b; out may be a or b.
void AddFloats(const float* a, const float* b, size_t count, float* out);
void MultiplyFloats(const float* a, const float* b, size_t count, float* out);
// out = x * scale (* weight, unless null); out may be x.
void ScaleFloats(const float* x, float scale, const float* weight, size_t count, float* out);

bool AllFiniteFloats(const float* x, size_t count);

// Sum of exp(x - shift).
float SumExpFloats(const float* x, float shift, size_t count);
// out = exp(scale * (x - shift)); out may be x.
void ExpFloats(const float* x, float shift, float scale, size_t count, float* out);

// One head of LogDecay: kernels/ops.h has the formulas. a_scale is exp(a_log), bias [count] or
// null.
struct LogDecayHead {
  GateKind kind;
  float a_scale;
  const float* bias;
  float normalizer;
  float clamp_min;
  float lower_bound;
};
void LogDecayFloats(const LogDecayHead& head, const float* x, size_t count, float* out);

// out[c] = bias[c] + sum_j taps[j * count + c] * inputs[j][c], j < width; bias may be null.
void ConvolveFloats(const float* const* inputs, const float* taps, const float* bias, int width,
                    size_t count, float* out);

}  // namespace fla::cpu
