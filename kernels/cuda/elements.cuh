// How kernels read and write activations: N neighbouring elements of any dtype as floats, and the
// choice between N = 8 (16-byte accesses) and N = 1.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/cuda/special_functions.cuh"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace fla::cuda {

constexpr int kVector = 8;  // elements of a vectorised access

__device__ inline float ToFloat(float x) { return x; }
__device__ inline float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float ToFloat(__half x) { return __half2float(x); }

template <typename T>
__device__ T FromFloat(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    return __float2bfloat16_rn(x);
  }
}

// N half-width elements as they lie in memory.
template <int N>
using PackedHalves = std::conditional_t<N == kVector, uint4, uint2>;

// Whether Load and Store have N elements of T: one, or some whole accesses.
template <typename T, int N>
inline constexpr bool kCanAccess = N == 1 || N == kVector / 2 || N == kVector ||
                                   (sizeof(T) == 4 && N % 4 == 0);

// values = source[0 .. N), which, but for N == 1, is aligned to N elements, at most 16 bytes.
template <int N, typename T>
__device__ void Load(const T* source, float (&values)[N]) {
  static_assert(kCanAccess<T, N>);
  if constexpr (N == 1) {
    values[0] = ToFloat(source[0]);
  } else if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(source + i);
      values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
    }
  } else {
    union {
      PackedHalves<N> bits;
      T elements[N];
    } packed = {*reinterpret_cast<const PackedHalves<N>*>(source)};
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = ToFloat(packed.elements[i]);
  }
}

// N neighbouring elements as they lie in memory, to be loaded before there is room for floats.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Run {
  T elements[N];
};
template <int N, typename T>
__device__ Run<T, N> LoadRun(const T* source) {
  return *reinterpret_cast<const Run<T, N>*>(source);
}
// A half of a pair is an instruction each, where a conversion of the upper one takes two.
template <typename T, int N>
__device__ __forceinline__ void Unpack(const Run<T, N>& run, float (&values)[N]) {
  if constexpr (std::is_same_v<T, __nv_bfloat16> && N > 1) {
    const auto* pairs = reinterpret_cast<const uint32_t*>(run.elements);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[i] = __uint_as_float(i % 2 == 0 ? pairs[i / 2] << 16 : pairs[i / 2] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] = ToFloat(run.elements[i]);
  }
}

// target[0 .. N) = values, rounded to nearest even. Alignment as for Load.
template <int N, typename T>
__device__ void Store(T* target, const float (&values)[N]) {
  static_assert(kCanAccess<T, N>);
  if constexpr (N == 1) {
    target[0] = FromFloat<T>(values[0]);
  } else if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      *reinterpret_cast<float4*>(target + i) = {values[i], values[i + 1], values[i + 2],
                                                values[i + 3]};
    }
  } else {
    union {
      PackedHalves<N> bits;
      __nv_bfloat162 pairs[N / 2];
    } packed = {};
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      packed.pairs[i] = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
    }
    *reinterpret_cast<PackedHalves<N>*>(target) = packed.bits;
  }
}

// The row's first element, as Matrix::Row, which device code cannot call.
template <typename T>
__device__ T* RowOf(const Matrix& matrix, int64_t row) {
  return static_cast<T*>(matrix.data) + row * matrix.stride;
}

// With the accuracy that the type of the activations deserves. The fast division gives 0 for an
// infinite divisor, which is sigmoid's limit.
template <typename T = float>
__device__ float Sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + (sizeof(T) == 4 ? expf(-x) : __expf(-x)));
}

template <typename T = float>
__device__ float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kIdentity:
      return x;
    case Activation::kSilu:
      return x * Sigmoid<T>(x);
    case Activation::kSigmoid:
      return Sigmoid<T>(x);
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;  // NaN stays NaN
    case Activation::kReluPlusEps:
      return (x < 0.0f ? 0.0f : x) + 1e-6f;
    case Activation::kEluPlusOne:
      return x > 0.0f ? x + 1.0f : expf(x);
    case Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
  }
  return x;
}

// Of N values, with one choice for all. Of half-width activations the sigmoid flushes subnormals,
// which saves more than half of its instructions.
template <typename T, int N>
__device__ __forceinline__ void ActivateAll(Activation activation, float (&values)[N]) {
  if (activation == Activation::kIdentity) return;
  if (activation == Activation::kSilu || activation == Activation::kSigmoid) {
    const bool silu = activation == Activation::kSilu;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float x = values[i];
      const float sigmoid = sizeof(T) == 4 ? Sigmoid<T>(x) : Reciprocal(1.0f + Exp2(-kLog2E * x));
      values[i] = sigmoid * (silu ? x : 1.0f);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = Activate<T>(activation, values[i]);
}

inline bool IsAligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Whether every row of the matrices, cut into pieces of `columns` elements, can be accessed by
// kVector elements at a time. Absent matrices agree to anything.
inline bool Vectorizable(int64_t columns, std::initializer_list<Matrix> matrices) {
  if (columns % kVector != 0) return false;
  for (const Matrix& matrix : matrices) {
    if (!IsAligned(matrix.data) || matrix.stride % kVector != 0) return false;
  }
  return true;
}

// Calls f.template operator()<T, N>() for the matrices' element type and access width.
template <typename F>
void DispatchElements(DType dtype, bool vectorizable, F f) {
  if (dtype == DType::kF32) {
    vectorizable ? f.template operator()<float, kVector>() : f.template operator()<float, 1>();
  } else {
    vectorizable ? f.template operator()<__nv_bfloat16, kVector>()
                 : f.template operator()<__nv_bfloat16, 1>();
  }
}

}  // namespace fla::cuda
