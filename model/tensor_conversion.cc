#include "model/tensor_conversion.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "kernels/fp8.h"

namespace fla {
namespace {

// Loops over `count` elements that compilers turn into vector code: loads and stores by memcpy,
// since neither side need be aligned.
template <typename Stored, typename Held, typename Function>
void Map(const char* stored, char* target, int64_t count, Function function) {
  for (int64_t i = 0; i < count; ++i) {
    Stored in;
    std::memcpy(&in, stored + i * static_cast<int64_t>(sizeof in), sizeof in);
    const Held out = function(in);
    std::memcpy(target + i * static_cast<int64_t>(sizeof out), &out, sizeof out);
  }
}

// HalfToFloat without branches: the exponent is corrected by a product, which is exact and makes
// subnormals normal.
float HalfBitsToFloat(uint16_t bits) {
  const float magnitude = std::bit_cast<float>((bits & 0x7fffu) << 13) * 0x1p112f;
  const uint32_t special = (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | special |
                              (bits & 0x8000u) << 16);
}

uint16_t ToBFloat16Bits(float value) { return BFloat16(value).bits; }

template <typename Held, typename Round>
void ConvertTo(const StoredTensor& tensor, int64_t first, int64_t count, const char* stored,
               char* target, Round round) {
  switch (tensor.dtype) {
    case StoredDType::kF32:
      return Map<float, Held>(stored, target, count, round);
    case StoredDType::kF16:
      return Map<uint16_t, Held>(stored, target, count,
                                 [&](uint16_t bits) { return round(HalfBitsToFloat(bits)); });
    case StoredDType::kBF16:
      return Map<uint16_t, Held>(stored, target, count, [&](uint16_t bits) {
        return round(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16));
      });
    case StoredDType::kF8E4M3:
      break;
  }
  const std::array<float, 256>& values = E4M3Values();
  if (tensor.scale == nullptr) {
    return Map<uint8_t, Held>(stored, target, count,
                              [&](uint8_t bits) { return round(values[bits]); });
  }
  // Runs of one row within one block have one factor.
  const BlockScale& scale = *tensor.scale;
  const int64_t cols = tensor.row_elements();
  for (int64_t done = 0; done < count;) {
    const int64_t row = (first + done) / cols, col = (first + done) % cols;
    const int64_t block = col / scale.cols;
    const int64_t run = std::min(count - done, std::min(cols, (block + 1) * scale.cols) - col);
    const float factor = scale.values[row / scale.rows * scale.grid_cols + block];
    Map<uint8_t, Held>(stored + done, target + done * static_cast<int64_t>(sizeof(Held)), run,
                       [&](uint8_t bits) { return round(values[bits] * factor); });
    done += run;
  }
}

}  // namespace

bool IsStoredAs(const StoredTensor& tensor, DType held) {
  return (tensor.dtype == StoredDType::kF32 && held == DType::kF32) ||
         (tensor.dtype == StoredDType::kBF16 && held == DType::kBF16);
}

void ConvertElements(const StoredTensor& tensor, int64_t first, int64_t count, const char* stored,
                     DType held, char* target) {
  if (IsStoredAs(tensor, held)) {
    std::memcpy(target, stored, count * SizeOf(tensor.dtype));
  } else if (held == DType::kF32) {
    ConvertTo<float>(tensor, first, count, stored, target, [](float value) { return value; });
  } else {
    ConvertTo<uint16_t>(tensor, first, count, stored, target, ToBFloat16Bits);
  }
}

}  // namespace fla
