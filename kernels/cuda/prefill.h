// The GPU's versions of kernels/prefill.h, for Hopper.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/divide_up.h"
#include "kernels/prefill.h"

namespace fla::cuda {

// A tile of its kernel.
inline constexpr int kPrefillTileTokens = 128, kPrefillTileRows = 256;

// Whether products of so many tokens and rows of a weight fill the multiprocessors, a tile each at
// a time, so well that they take no longer than cuBLASLt's, which has more kinds of tiles.
constexpr bool FillsRounds(int64_t tokens, int64_t rows, int multiprocessors) {
  constexpr double kLeast = 0.8;
  const int64_t tiles =
      int64_t{DivideUp(tokens, kPrefillTileTokens)} * DivideUp(rows, kPrefillTileRows);
  const int64_t rounds = DivideUp(tiles, multiprocessors);
  const int64_t room = rounds * multiprocessors * kPrefillTileTokens * kPrefillTileRows;
  return tiles > 0 && static_cast<double>(tokens * rows) >= kLeast * static_cast<double>(room);
}

// Tokens of LinearSwiGlu's other kernel (cluster_linear.cu), whose tiles have them all. bf16 rows
// that begin on 16 bytes.
inline constexpr int kMinClusterTokens = 65, kMaxClusterTokens = 128;
void LaunchClusterSwiGlu(const Matrix& x, const Matrix& weight, const Matrix& out,
                         cudaStream_t stream, bool chained);

// Tokens of which columns may be late. Of 128 and 256 it did not pay.
inline constexpr int64_t kMinLateTokens = 512;
// Multiprocessors that late columns take. The kernels beside them get the others whole.
constexpr int LateMultiprocessors(int multiprocessors) { return multiprocessors / 2; }

bool LinearSwiGlu(Stream& stream, Matrix x, Matrix weight, Matrix out);
bool LateLinear(Stream& stream, Matrix x, Matrix weight, int64_t late, Matrix out);
void AwaitLate(Stream& stream);

}  // namespace fla::cuda
