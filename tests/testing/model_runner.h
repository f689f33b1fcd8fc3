// Drives a Model as the engine would, one call at a time, and brings logits back to the host.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "model/model.h"

namespace fla::testing {

// A sequence's next tokens and where they continue.
struct Piece {
  int slot = 0;
  int position = 0;
  std::vector<int> tokens;
};

// Logits [rows, vocab] of every token of the pieces; single tokens go first, as decode rows.
inline std::vector<float> AllLogits(Model& model, StatePool& pool, std::vector<Piece> pieces,
                                    bool single_tokens_decode = true) {
  Batch batch;
  batch.cu_seqlens.push_back(0);
  for (const Piece& piece : pieces) {
    if (single_tokens_decode && piece.tokens.size() == 1 &&
        batch.num_decode == static_cast<int>(batch.slots.size())) {
      ++batch.num_decode;
    }
    batch.tokens.insert(batch.tokens.end(), piece.tokens.begin(), piece.tokens.end());
    batch.slots.push_back(piece.slot);
    batch.positions.push_back(piece.position);
    batch.cu_seqlens.push_back(static_cast<int>(batch.tokens.size()));
  }
  for (size_t row = 0; row < batch.tokens.size(); ++row) {
    batch.logits_rows.push_back(static_cast<int>(row));
  }
  const Matrix logits = model.Forward(batch, pool).logits;
  std::vector<float> host(logits.rows * logits.cols);
  model.stream().CopyToHost(host.data(), logits.data, host.size() * sizeof(float));
  model.stream().Synchronize();
  return host;
}

inline int ArgMax(std::span<const float> row) {
  return static_cast<int>(std::max_element(row.begin(), row.end()) - row.begin());
}

}  // namespace fla::testing
