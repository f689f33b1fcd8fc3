// Random shapes and values for the checkers beside this.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

namespace fla::cuda::bench {

class Random {
 public:
  explicit Random(uint32_t seed) : generator_(seed) {}

  int Pick(std::initializer_list<int> choices) {
    return *(choices.begin() + generator_() % choices.size());
  }
  bool Chance(int of) { return generator_() % of == 0; }
  float Normal(double deviation) {
    return static_cast<float>(std::normal_distribution<double>(0, deviation)(generator_));
  }
  // A [rows, cols] matrix that both sides see: in host memory as floats, rounded to T.
  template <typename T>
  std::vector<T> Matrix(int64_t rows, int64_t cols, double deviation) {
    std::vector<T> values;
    for (int64_t i = 0; i < rows * cols; ++i) values.push_back(static_cast<T>(Normal(deviation)));
    return values;
  }

 private:
  std::mt19937 generator_;
};

}  // namespace fla::cuda::bench
