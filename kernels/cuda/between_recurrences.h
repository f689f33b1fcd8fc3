// The plan of between_recurrences.cu: which tiles its blocks have.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/divide_up.h"
#include "kernels/prefill.h"

namespace fla::cuda {

inline constexpr int kSeamBlocks = 4;       // of a cluster
inline constexpr int kSeamNarrowRows = 96;  // of a tile onto the residual stream
inline constexpr int kSeamPairedRows = 96;  // of gate and up: eight gates, eight ups, eight gates
inline constexpr int kSeamMaxParts = 5;     // of a narrow product's inputs
inline constexpr int kMinSeamTokens = 33;   // fewer: stream_linear.cu, whose tiles fit them
inline constexpr int kSeamMaxColumns = 2048;

struct SeamPlan {
  int clusters = 0, parts = 0;
  bool pays = false;  // tiles fill the clusters round by round
};

// How much of the clusters' rounds tiles of so many rows fill.
constexpr double SeamFill(int64_t rows, int tile_rows, int clusters) {
  const int64_t quads = DivideUp(rows, int64_t{tile_rows} * kSeamBlocks);
  const int64_t rounds = DivideUp(quads, int64_t{clusters});
  return static_cast<double>(rows) /
         static_cast<double>(rounds * clusters * kSeamBlocks * tile_rows);
}

// Rows of a tile of the next layer's input projection, 64 or 80: which leaves fewer idle.
constexpr int NextTileRows(int64_t rows, int clusters) {
  if (clusters <= 0) return 64;
  return SeamFill(rows, 64, clusters) >= SeamFill(rows, 80, clusters) ? 64 : 80;
}

// Of a residual stream of `columns` and products onto it of at least `inputs`, and of weights of so
// many rows. `clusters`: that run at once.
constexpr SeamPlan PlanSeam(int64_t columns, int64_t inputs, int64_t gate_up_rows,
                            int64_t next_rows, int next_tile_rows, int clusters) {
  constexpr double kLeast = 0.6;
  constexpr int64_t kLeastInputs = 64;  // of a part
  if (clusters <= 0) return {};
  SeamPlan plan = {.clusters = clusters};
  const int64_t quads = DivideUp(columns, int64_t{kSeamNarrowRows} * kSeamBlocks);
  const int64_t most = std::clamp<int64_t>(inputs / kLeastInputs, 1, kSeamMaxParts);
  plan.parts = static_cast<int>(std::clamp<int64_t>(clusters / quads, 1, most));
  plan.pays = SeamFill(gate_up_rows, kSeamPairedRows, clusters) >= kLeast &&
              SeamFill(next_rows, next_tile_rows, clusters) >= kLeast &&
              SeamFill(columns * plan.parts, kSeamNarrowRows, clusters) >= kLeast;
  return plan;
}

bool TakesBetweenRecurrences(Stream& stream, const BetweenRecurrencesArgs& args);
void BetweenRecurrences(Stream& stream, const BetweenRecurrencesArgs& args);

}  // namespace fla::cuda
