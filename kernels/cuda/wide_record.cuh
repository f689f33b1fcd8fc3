// What the first wide kernel leaves for the second, and how the second keeps it.
#pragma once

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/wide_panel.cuh"

namespace fla::cuda {

// The scan's stage: matrices of one chunk of 64 tokens as panels (wide_panel.cuh), then V, one
// panel for each slice of 64 columns. A record in the workspace begins like it, per channel up to
// V, scalar up to q.
template <int kPanels, bool kDelta, bool kChannel>
struct WideStage {
  static constexpr WideRecord kRecord = MakeWideRecord(kPanels, kDelta, kChannel);
  static constexpr bool kMakesAttention = !kDelta && !kChannel;  // and the decays
  static constexpr int kDecayBytes = kChannel ? 4 * 64 * kPanels : 4 * 2 * kWideChunk;
  static constexpr int kMatrix = kPanels * kPanelBytes;
  static constexpr int kAttention = 0, kTransform = kPanelBytes;
  static constexpr int kQuery = kDelta ? 2 * kPanelBytes : kPanelBytes;
  static constexpr int kKeyEnd = kQuery + kMatrix;
  static constexpr int kKeyStart = kDelta && kChannel ? kKeyEnd + kMatrix : kKeyEnd;
  static constexpr int kValue = kKeyStart + kMatrix;
  static constexpr int Bytes(int slices) { return kValue + slices * kPanelBytes; }
  static_assert(!kChannel || kRecord.decay == kValue);
};

}  // namespace fla::cuda
