// How far results are from what is wanted, for the checkers beside this.
#pragma once

#include <cmath>

namespace fla::cuda::bench {

// ||actual - wanted|| / ||wanted|| of what was added, without the division where wanted is 0;
// infinity if a number of either is NaN or infinite.
class RelativeError {
 public:
  void Add(double actual, double wanted) {
    difference_ += (actual - wanted) * (actual - wanted);
    norm_ += wanted * wanted;
    finite_ = finite_ && std::isfinite(actual) && std::isfinite(wanted);
  }
  double value() const {
    if (!finite_) return INFINITY;
    return std::sqrt(norm_ > 0 ? difference_ / norm_ : difference_);
  }

 private:
  double difference_ = 0, norm_ = 0;
  bool finite_ = true;
};

// Of vectors of one length.
template <typename A, typename W>
double RelativeErrorOf(const A& actual, const W& wanted) {
  RelativeError error;
  for (decltype(wanted.size()) i = 0; i < wanted.size(); ++i) error.Add(actual[i], wanted[i]);
  return error.value();
}

}  // namespace fla::cuda::bench
