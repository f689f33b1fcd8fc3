// The scalar functions that the ops use, in double, written from their definitions.
#pragma once

#include <cmath>

#include "kernels/ops.h"

namespace fla::testing {

inline double SigmoidOf(double x) { return 1.0 / (1.0 + std::exp(-x)); }

inline double SoftplusOf(double x) { return x > 40.0 ? x : std::log1p(std::exp(x)); }

inline double ActivationOf(Activation activation, double x) {
  switch (activation) {
    case Activation::kIdentity:
      return x;
    case Activation::kSilu:
      return x * SigmoidOf(x);
    case Activation::kSigmoid:
      return SigmoidOf(x);
    case Activation::kRelu:
      return std::fmax(x, 0.0);
    case Activation::kReluPlusEps:
      return std::fmax(x, 0.0) + 1e-6;
    case Activation::kEluPlusOne:
      return x > 0.0 ? x + 1.0 : std::exp(x);
    case Activation::kGelu:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
  }
  return NAN;
}

inline constexpr Activation kAllActivations[] = {
    Activation::kIdentity,    Activation::kSilu,       Activation::kSigmoid, Activation::kRelu,
    Activation::kReluPlusEps, Activation::kEluPlusOne, Activation::kGelu};

}  // namespace fla::testing
