#include "server/pooled_states.h"

#include <algorithm>
#include <cmath>

namespace fla {

int PooledStates::RowsOf(int tokens, bool last_piece) const {
  if (pooling_ != Pooling::kLast) return tokens;
  return last_piece ? 1 : 0;
}

bool PooledStates::Add(std::span<const float> rows, int columns) {
  if (!std::all_of(rows.begin(), rows.end(), [](float x) { return std::isfinite(x); })) {
    return false;
  }
  if (pooling_ != Pooling::kMean) {
    vectors_.insert(vectors_.end(), rows.begin(), rows.end());
    return true;
  }
  sum_.resize(columns);
  for (size_t begin = 0; begin < rows.size(); begin += columns) {
    for (int i = 0; i < columns; ++i) sum_[i] += rows[begin + i];
    ++num_rows_;
  }
  return true;
}

std::vector<float> PooledStates::Take() {
  for (const double sum : sum_) {
    vectors_.push_back(static_cast<float>(sum / static_cast<double>(num_rows_)));
  }
  sum_.clear();
  return std::move(vectors_);
}

}  // namespace fla
