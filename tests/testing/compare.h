// How results are compared: relative Frobenius error and equal masks of non-finite values.
#pragma once

#include <cmath>
#include <span>

namespace fla::testing {

// ||actual - wanted|| / ||wanted|| over the finite entries (||actual - wanted|| where wanted is 0);
// infinity if one of the two is NaN or infinite where the other is not.
template <typename A, typename W>
double RelativeError(std::span<const A> actual, std::span<const W> wanted) {
  if (actual.size() != wanted.size()) return INFINITY;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double a = static_cast<double>(actual[i]), w = static_cast<double>(wanted[i]);
    if (std::isnan(a) != std::isnan(w) || std::isinf(a) != std::isinf(w)) return INFINITY;
    if (!std::isfinite(w)) continue;
    difference += (a - w) * (a - w);
    norm += w * w;
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

}  // namespace fla::testing
