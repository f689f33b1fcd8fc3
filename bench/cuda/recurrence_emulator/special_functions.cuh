// Stands in for kernels/cuda/special_functions.cuh.
#pragma once

#include <cmath>

namespace fla::cuda {

inline constexpr float kLog2E = 1.44269504f;

inline float Exp2(float x) { return std::exp2(x); }
inline float Reciprocal(float x) { return 1.0f / x; }

}  // namespace fla::cuda
