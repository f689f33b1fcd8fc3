// What the first wide kernel leaves for the second, and how the second keeps it.
#pragma once

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/wide_panel.cuh"

namespace fla::cuda {

// The scan's stage: matrices of one chunk of 64 tokens, P and T as triangles, the others as panels
// (wide_panel.cuh), V as one for each slice of 64 columns.
//
// Two slices read triangles with zeros in front, by products of 64 columns. They issue a third less
// of them, which counts where two warpgroups share the tensor cores; one slice, which waits for
// each product, has those of 32 columns, which end sooner, and, without zeros, room for one more
// stage.
template <int kPanels, int kSlices, bool kDelta>
struct WideStage {
  static constexpr WideRecord kRecord = MakeWideRecord(kDelta);
  static constexpr bool kMakesAttention = !kDelta;  // and the decays
  static constexpr int kDecayBytes = 4 * 2 * kWideChunk;
  static constexpr int kMatrix = kPanels * kPanelBytes;
  static constexpr int kZeroBytes = kSlices > 1 ? kQuadrantBytes : 0;  // in front of a triangle
  static constexpr int kTriangles = kDelta ? 2 : 1, kTriangleRoom = kZeroBytes + kTriangleBytes;
  static constexpr int kAttention = kZeroBytes, kTransform = kAttention + kTriangleRoom;
  static constexpr int kQuery = kTriangles * kTriangleRoom;
  static constexpr int kKey = kQuery + kMatrix;
  static constexpr int kValue = kKey + kMatrix;
  static constexpr int kBytes = kValue + kSlices * kPanelBytes;
  static_assert(!kDelta || kRecord.decay == kRecord.transform + kTriangleBytes);
  static_assert(kQuadrantBytes % 512 == 0 && kQuery % 1024 == 0, "what the swizzles repeat at");
};

}  // namespace fla::cuda
