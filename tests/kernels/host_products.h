// What tests of products on a GPU compare with: the same of host matrices, in f32.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/tensor.h"
#include "tests/kernels/op_arena.h"

namespace fla {

// To bf16.
inline Input Rounded(Input x) {
  for (float& value : x.values) value = static_cast<float>(BFloat16(value));
  return x;
}

// x weight^T.
inline Input Product(const Input& x, const Input& weight) {
  Input product = {x.rows, weight.rows, {}};
  product.values.reserve(x.rows * weight.rows);
  for (int64_t token = 0; token < x.rows; ++token) {
    for (int64_t row = 0; row < weight.rows; ++row) {
      const float* const a = x.values.data() + token * x.cols;
      const float* const b = weight.values.data() + row * x.cols;
      float sums[8] = {};
      for (int64_t i = 0; i < x.cols; ++i) sums[i % 8] += a[i] * b[i];
      product.values.push_back(((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                               ((sums[4] + sums[5]) + (sums[6] + sums[7])));
    }
  }
  return product;
}

// silu(gates) * ups, of rows whose first half are gates.
inline Input GatedUps(const Input& product) {
  const int64_t columns = product.cols / 2;
  Input out = {product.rows, columns, {}};
  for (int64_t token = 0; token < product.rows; ++token) {
    const float* const gates = product.values.data() + token * product.cols;
    for (int64_t i = 0; i < columns; ++i) {
      out.values.push_back(gates[i] / (1 + std::exp(-gates[i])) * gates[columns + i]);
    }
  }
  return out;
}

}  // namespace fla
