// From the hidden states of a prompt to its embedding.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/config.h"

namespace fla {

// Takes hidden states as the pieces of a prompt come. The mean is summed in double, in the order of
// the prompt, so that it does not depend on how the prompt was cut.
class PooledStates {
 public:
  explicit PooledStates(Pooling pooling) : pooling_(pooling) {}

  // Of a piece of `tokens` of the prompt, the last one or not, how many hidden states count: those
  // of its last tokens.
  int RowsOf(int tokens, bool last_piece) const;

  // Those of the next piece, of `columns` numbers each, one after the other. False: one is NaN or
  // infinite.
  [[nodiscard]] bool Add(std::span<const float> rows, int columns);

  // The embedding, once all of the prompt is in: one vector, or for kAll one a token.
  std::vector<float> Take();

 private:
  const Pooling pooling_;
  std::vector<float> vectors_;  // kLast, kAll
  std::vector<double> sum_;     // kMean
  int64_t num_rows_ = 0;
};

}  // namespace fla
