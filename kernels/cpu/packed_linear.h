// Linear through oneDNN's matrix kernels, where a row's result does not depend on its company.
//
// oneDNN promises no such thing, so nothing is left to it that could break it: the weight is cut
// into panels of columns, x into tiles of a few fixed numbers of rows, each of them with one
// primitive of its own; and before a primitive is used, it is tried whether tiles of all sizes give
// the same bits. Where they do not, or where oneDNN has no kernel for this processor that reads
// packed weights (AVX-512 for f32, AMX for bf16), weights stay rows and linear_kernel.h multiplies.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla::cpu {

// As in kernels/linear_weight.h.
size_t PackedLinearBytes(DType dtype, int64_t rows, int64_t cols);
void PackLinear(Matrix weight, void* target);
// Its parts: first what a weight of `shape` (without data) begins with, then its panels in any
// order, by any threads.
void BeginPacking(Matrix shape, void* target);
void PackPanel(int64_t panel, const void* rows, void* target);

// out = x weight^T + bias for a packed weight; `bias` may be null.
void PackedLinear(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out);

}  // namespace fla::cpu
