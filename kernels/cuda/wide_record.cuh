// What the first wide kernel leaves for the second, and how the second keeps it.
#pragma once

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/wide_panel.cuh"

namespace fla::cuda {

// The scan's stage: matrices of one chunk of 64 tokens, P and T as triangles, the others as panels
// (wide_panel.cuh), V as one for each slice of 64 columns. A record in the workspace begins like
// it, up to Q.
template <int kPanels, bool kDelta>
struct WideStage {
  static constexpr WideRecord kRecord = MakeWideRecord(kDelta);
  static constexpr bool kMakesAttention = !kDelta;  // and the decays
  static constexpr int kDecayBytes = 4 * 2 * kWideChunk;
  static constexpr int kMatrix = kPanels * kPanelBytes;
  static constexpr int kAttention = 0, kTransform = kTriangleBytes;
  static constexpr int kQuery = (kDelta ? 2 : 1) * kTriangleBytes;
  static constexpr int kKey = kQuery + kMatrix;
  static constexpr int kValue = kKey + kMatrix;
  static constexpr int Bytes(int slices) { return kValue + slices * kPanelBytes; }
  static_assert(!kDelta || kRecord.decay == kQuery);
  static_assert(kTransform % 1024 == 0 && kQuery % 1024 == 0, "what the swizzles repeat at");
};

}  // namespace fla::cuda
