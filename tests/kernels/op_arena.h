// Host matrices on the device that an op runs on, for tests of the GPU's ops against the CPU's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace fla {

inline bool HasGpu() { return ParseDevice("auto").is_cuda(); }

// Host matrices, each put on the device that an op runs on and read back from there.
struct Input {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;
};

inline Input Random(std::mt19937& random, int64_t rows, int64_t cols, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  Input input{rows, cols, std::vector<float>(rows * cols)};
  for (float& value : input.values) value = normal(random);
  return input;
}

// The memory of one run of an op on one device.
class Arena {
 public:
  explicit Arena(Device device) : stream_(device) {}

  Stream& stream() { return stream_; }

  // A matrix of `dtype` whose rows are `gap` elements longer than they need to be,
  // NaN there.
  Matrix Put(const Input& input, DType dtype, int64_t gap) {
    const int64_t stride = input.cols + gap;
    std::vector<char> bytes(std::max<size_t>(1, input.rows * stride * SizeOf(dtype)),
                            static_cast<char>(0xff));
    for (int64_t r = 0; r < input.rows; ++r) {
      for (int64_t c = 0; c < input.cols; ++c) {
        const float value = input.values[r * input.cols + c];
        char* target = bytes.data() + (r * stride + c) * SizeOf(dtype);
        if (dtype == DType::kF32) {
          std::memcpy(target, &value, 4);
        } else {
          const BFloat16 rounded(value);
          std::memcpy(target, &rounded, 2);
        }
      }
    }
    return {Upload(bytes.data(), bytes.size()), dtype, input.rows, input.cols, stride};
  }

  // NaN in every element and gap.
  Matrix Poisoned(int64_t rows, int64_t cols, DType dtype, int64_t gap) {
    std::vector<char> bytes(rows * (cols + gap) * SizeOf(dtype), static_cast<char>(0xff));
    return {Upload(bytes.data(), bytes.size()), dtype, rows, cols, cols + gap};
  }

  template <typename T>
  T* Put(const std::vector<T>& values) {
    return static_cast<T*>(Upload(values.data(), values.size() * sizeof(T)));
  }

  std::vector<float> Get(const Matrix& matrix) {
    std::vector<char> bytes(matrix.rows * matrix.stride * SizeOf(matrix.dtype));
    stream_.CopyToHost(bytes.data(), matrix.data, bytes.size());
    stream_.Synchronize();
    std::vector<float> values;
    for (int64_t r = 0; r < matrix.rows; ++r) {
      for (int64_t c = 0; c < matrix.stride; ++c) {
        const char* source = bytes.data() + (r * matrix.stride + c) * SizeOf(matrix.dtype);
        float value;
        if (matrix.dtype == DType::kF32) {
          std::memcpy(&value, source, 4);
        } else {
          BFloat16 rounded;
          std::memcpy(&rounded, source, 2);
          value = static_cast<float>(rounded);
        }
        values.push_back(value);  // gaps too: a device that writes there differs from the CPU
      }
    }
    return values;
  }

  template <typename T>
  std::vector<T> Get(const T* data, size_t count) {
    std::vector<T> values(count);
    stream_.CopyToHost(values.data(), data, count * sizeof(T));
    stream_.Synchronize();
    return values;
  }

 private:
  void* Upload(const void* data, size_t bytes) {
    buffers_.emplace_back(stream_.device(), bytes + 256);
    stream_.CopyToDevice(buffers_.back().data(), data, bytes);
    return buffers_.back().data();
  }

  Stream stream_;
  std::vector<Buffer> buffers_;
};

using Results = std::vector<std::vector<float>>;

}  // namespace fla
