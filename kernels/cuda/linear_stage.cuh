// What the kernels of a prompt's products share (cluster_linear.cu, prefill_linear.cu): the stages
// of their rings, and the multiplication of one.
//
// A stage has 64 inputs of x's 128 tokens, behind them those of the weight's rows, both as panels.
// Two warpgroups multiply, 64 tokens each; one warp more loads.
#pragma once

#include <cstdint>

#include "kernels/cuda/warpgroup.cuh"

namespace fla::cuda {

constexpr int kGroups = 2, kGroupThreads = 128, kGroupTokens = 64;
constexpr int kConsumers = kGroups * kGroupThreads;
constexpr int kLinearThreads = kConsumers + 32;
constexpr int kRun = 64;  // inputs of a stage
constexpr int kRowBytes = kRun * 2;
constexpr int kInputBytes = kGroups * kGroupTokens * kRowBytes;
constexpr int kPanelAlignment = 1024;
static_assert(kGroupTokens * kRowBytes % kPanelAlignment == 0);

// The first stage's place in shared memory.
__device__ __forceinline__ uint32_t AlignedForPanels(uint32_t address) {
  return (address + kPanelAlignment - 1) & ~(kPanelAlignment - 1u);
}

// Begins sums (+)= x W^T of a stage's panels and the warpgroup's tokens, kTiles * 8 rows of W. The
// stage before has been multiplied when it returns; this one is under way.
template <int kTiles>
__device__ __forceinline__ void MultiplyPanels(uint32_t inputs, uint32_t weights, int group,
                                               bool adds, float (&sums)[kTiles][4]) {
  const uint64_t a = RowsDescriptor(inputs + group * kGroupTokens * kRowBytes);
  const uint64_t b = RowsDescriptor(weights);
  BeginProducts();
#pragma unroll
  for (int k = 0; k < kRun / 16; ++k) {
    WarpgroupMultiplyAdd(sums, a + 2 * k, b + 2 * k, adds || k > 0);
  }
  CommitProducts();
  WaitForProducts<1>();
}
template <int kTiles>
__device__ __forceinline__ void MultiplyStage(uint32_t stage, int group, bool adds,
                                              float (&sums)[kTiles][4]) {
  MultiplyPanels(stage, stage + kInputBytes, group, adds, sums);
}

}  // namespace fla::cuda
