// Matrices on a device for tests of the ops: random values that the element type holds exactly,
// rows with gaps between them, and NaN wherever an op has not written.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"
#include "tests/kernels/place.h"
#include "tests/testing/compare.h"

namespace fla::testing {

// A value after a round trip through `dtype`.
inline double Rounded(double value, DType dtype) {
  const auto f = static_cast<float>(value);
  return dtype == DType::kBF16 ? static_cast<float>(BFloat16(f)) : f;
}

inline std::vector<double> RandomNormal(size_t count, uint32_t seed, DType dtype,
                                        double deviation = 1.0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(0.0, deviation);
  std::vector<double> values(count);
  for (double& value : values) value = Rounded(normal(generator), dtype);
  return values;
}

inline std::vector<float> ToFloats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

// A [rows, cols] matrix whose rows are `gap` elements apart. Thread safety: none.
class DeviceMatrix {
 public:
  // Contents and gaps are NaN.
  DeviceMatrix(Stream& stream, DType dtype, int64_t rows, int64_t cols, int64_t gap = 5)
      : stream_(&stream), dtype_(dtype), rows_(rows), cols_(cols), stride_(cols + gap) {
    std::vector<double> poison(rows * cols, NAN);
    buffer_ = Buffer(stream.device(), rows * stride_ * SizeOf(dtype));
    Write(poison);
  }
  DeviceMatrix(Stream& stream, DType dtype, int64_t rows, int64_t cols,
               const std::vector<double>& values, int64_t gap = 5)
      : DeviceMatrix(stream, dtype, rows, cols, gap) {
    Write(values);
  }

  Matrix view() const { return {buffer_.data(), dtype_, rows_, cols_, stride_}; }

  // The contents; fails the test if a gap was written to.
  std::vector<float> Read() const {
    std::vector<char> bytes(buffer_.size());
    stream_->CopyToHost(bytes.data(), buffer_.data(), bytes.size());
    stream_->Synchronize();
    std::vector<float> values;
    for (int64_t i = 0; i < rows_ * stride_; ++i) {
      float value;
      if (dtype_ == DType::kF32) {
        std::memcpy(&value, &bytes[i * sizeof(float)], sizeof(float));
      } else {
        BFloat16 element;
        std::memcpy(&element, &bytes[i * sizeof(element)], sizeof(element));
        value = static_cast<float>(element);
      }
      if (i % stride_ < cols_) {
        values.push_back(value);
      } else {
        EXPECT_TRUE(std::isnan(value)) << "the gap after row " << i / stride_ << " was written";
      }
    }
    return values;
  }

 private:
  void Write(const std::vector<double>& values) {
    std::vector<char> bytes(buffer_.size());
    for (int64_t i = 0; i < rows_ * stride_; ++i) {
      const bool in_gap = i % stride_ >= cols_;
      const auto value =
          static_cast<float>(in_gap ? NAN : values[i / stride_ * cols_ + i % stride_]);
      if (dtype_ == DType::kF32) {
        std::memcpy(&bytes[i * sizeof(float)], &value, sizeof(float));
      } else {
        const BFloat16 element(value);
        std::memcpy(&bytes[i * sizeof(element)], &element, sizeof(element));
      }
    }
    stream_->CopyToDevice(buffer_.data(), bytes.data(), bytes.size());
  }

  Stream* stream_;
  DType dtype_;
  int64_t rows_, cols_, stride_;
  Buffer buffer_;
};

// A plain array on a device.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(Stream& stream, const std::vector<T>& values)
      : stream_(&stream), size_(values.size()) {
    buffer_ = Buffer(stream.device(), size_ * sizeof(T));
    stream.CopyToDevice(buffer_.data(), values.data(), size_ * sizeof(T));
  }

  T* data() const { return static_cast<T*>(buffer_.data()); }
  std::vector<T> Read() const {
    std::vector<T> values(size_);
    stream_->CopyToHost(values.data(), buffer_.data(), size_ * sizeof(T));
    stream_->Synchronize();
    return values;
  }

 private:
  Stream* stream_;
  size_t size_;
  Buffer buffer_;
};

// Every test of an op, in every place, with f32 and with bf16 activations.
class OpTest : public ::testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  DType dtype() const { return std::get<1>(GetParam()); }
  Stream& stream() { return stream_; }

  DeviceMatrix Upload(int64_t rows, int64_t cols, const std::vector<double>& values) {
    return DeviceMatrix(stream_, dtype(), rows, cols, values);
  }
  DeviceMatrix Poisoned(int64_t rows, int64_t cols) {
    return DeviceMatrix(stream_, dtype(), rows, cols);
  }
  DeviceArray<float> UploadFloats(const std::vector<double>& values) {
    return DeviceArray<float>(stream_, ToFloats(values));
  }

  // Sums are f32; bf16 results carry one rounding of 2^-9.
  void ExpectClose(const std::vector<float>& actual, const std::vector<double>& wanted,
                   DType stored_as) {
    EXPECT_LT(RelativeError(std::span(actual), std::span(wanted)),
              stored_as == DType::kF32 ? 2e-6 : 3e-3);
  }
  void ExpectClose(const DeviceMatrix& actual, const std::vector<double>& wanted) {
    ExpectClose(actual.Read(), wanted, actual.view().dtype);
  }

 private:
  Place place_{std::get<0>(GetParam())};
  Stream stream_{place_.device()};
};

inline std::string OpTestName(const ::testing::TestParamInfo<OpTest::ParamType>& info) {
  return std::get<0>(info.param) + "_" + NameOf(std::get<1>(info.param));
}

#define FLA_INSTANTIATE_OP_TEST(suite)                                                       \
  INSTANTIATE_TEST_SUITE_P(Devices, suite,                                                   \
                           ::testing::Combine(::testing::ValuesIn(::fla::testing::Places()), \
                                              ::testing::Values(DType::kF32, DType::kBF16)), \
                           ::fla::testing::OpTestName)

}  // namespace fla::testing
