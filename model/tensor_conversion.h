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

}  // namespace fla
