// From how elements are stored to how they are held.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"
#include "model/safetensors.h"

namespace fla {

// True where the elements are held as they are stored.
bool IsStoredAs(const StoredTensor& tensor, DType held);

// Converts elements [first, first + count) of a tensor, which lie at `stored` and need not be
// aligned, to `held` (f32 or bf16, rounding to nearest even), its scale applied.
void ConvertElements(const StoredTensor& tensor, int64_t first, int64_t count, const char* stored,
                     DType held, char* target);

// The value of an 8-bit float of 4 exponent and 3 mantissa bits, bias 7: NaN where all seven are
// set, no infinities.
float F8E4M3ToFloat(uint8_t bits);

}  // namespace fla
