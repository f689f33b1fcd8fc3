// Element types and the one view that every kernel takes: a row-major matrix in device memory.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace fla {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // of weights only (kernels/fp8.h)
};

constexpr size_t SizeOf(DType dtype) {
  return dtype == DType::kF32 ? 4 : dtype == DType::kF8E4M3 ? 1 : 2;
}

constexpr const char* NameOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kF8E4M3:
      return "fp8_e4m3";
  }
  return "?";
}

// The upper half of an IEEE float. Conversion from float rounds to nearest even; NaN stays NaN.
struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

// IEEE half -> float, subnormals, infinities and NaN included (checkpoints may be stored in F16).
float HalfToFloat(uint16_t bits);

// A [rows, cols] row-major view that owns nothing. `stride` is the distance between rows in
// elements, at least cols. A default-constructed view is "absent" (data == nullptr).
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
  bool packed =
      false;  // a Linear's weight as PackLinear (kernels/linear_weight.h) left it: no rows
  const float* scales =
      nullptr;  // [rows] of a Linear's weight of kF8E4M3, whose rows are PackFp8's

  bool present() const { return data != nullptr; }
  bool contiguous() const { return stride == cols; }

  Matrix Rows(int64_t begin, int64_t count) const {
    return {static_cast<char*>(data) + begin * stride * static_cast<int64_t>(SizeOf(dtype)),
            dtype,
            count,
            cols,
            stride,
            false,
            scales == nullptr ? nullptr : scales + begin};
  }
  Matrix Columns(int64_t begin, int64_t count) const {
    return {static_cast<char*>(data) + begin * static_cast<int64_t>(SizeOf(dtype)), dtype, rows,
            count, stride};
  }
  // A contiguous matrix seen with other row lengths: [T, H * D] as [T * H, D].
  Matrix Reshape(int64_t new_rows, int64_t new_cols) const {
    return {data, dtype, new_rows, new_cols, new_cols};
  }
  template <typename T>
  T* Row(int64_t row) const {
    return static_cast<T*>(data) + row * stride;
  }
};

}  // namespace fla
