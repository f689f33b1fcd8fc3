// What the kernels of a prompt's products share (between_recurrences.cu, cluster_linear.cu,
// prefill_linear.cu): the stages of their rings, the multiplication of one, and the way of sums to
// memory.
//
// A stage has 64 inputs of x's 128 tokens, behind them those of the weight's rows, both as panels.
// Two warpgroups multiply, 64 tokens each; one warp more loads.
#pragma once

#include <cstdint>

#include "kernels/cuda/chunk_tile.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/silu_pair.cuh"
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

// Of the outputs of sums the q-th 16 columns, as StoreMatrices takes them. kSwiGlu: of eight rows
// of gates, eight of ups, eight of gates.
template <bool kSwiGlu, int kTiles>
__device__ __forceinline__ void PackOutputs(const float (&sums)[kTiles][4], int q,
                                            uint32_t (&m)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int e = i % 2 * 2, t = kSwiGlu ? 4 * q + i / 2 * 2 : 2 * q + i / 2;
    float a = sums[t][e], b = sums[t][e + 1];
    if (kSwiGlu) {
      Silu(a, b);
      a *= sums[t + 1][e];
      b *= sums[t + 1][e + 1];
    }
    m[i] = Pack(a, b);
  }
}

// Bytes between a token's outputs on their way to memory: 16-byte pieces of a column's tokens lie
// in different banks.
constexpr int OutPitch(int columns) { return 2 * columns + 16; }

// One warpgroup's tokens of a tile, from sums to the columns of out from first_column on, by way of
// both groups' `staged` in shared memory. Meets its group at `barrier`.
template <bool kSwiGlu, int kTiles>
__device__ __forceinline__ void StoreTile(const Matrix& out, int tokens, int first_column,
                                          int group, uint32_t staged, int barrier,
                                          const float (&sums)[kTiles][4]) {
  constexpr int kColumns = kTiles * 8 / (kSwiGlu ? 2 : 1), kPieces = kColumns / 8;
  constexpr int kPitch = OutPitch(kColumns);
  static_assert(kColumns % 16 == 0 && kPitch % 16 == 0);
  const int thread = threadIdx.x % kGroupThreads, lane = thread % 32;
  staged += group * kGroupTokens * kPitch;
  const uint32_t row = staged + (thread / 32 * 16 + lane % 16) * kPitch + lane / 16 * 16;
#pragma unroll
  for (int q = 0; q < kPieces / 2; ++q) {
    uint32_t m[4];
    PackOutputs<kSwiGlu>(sums, q, m);
    StoreMatrices(row + 32 * q, m);
  }
  SyncThreads<kGroupThreads>(barrier);
#pragma unroll 4
  for (int i = thread; i < kGroupTokens * kPieces; i += kGroupThreads) {
    const int token = group * kGroupTokens + i / kPieces, column = first_column + i % kPieces * 8;
    if (token >= tokens || column >= out.cols) continue;
    const float4 piece = LoadShared(staged + i / kPieces * kPitch + i % kPieces * 16);
    *reinterpret_cast<float4*>(RowOf<__nv_bfloat16>(out, token) + column) = piece;
  }
}

}  // namespace fla::cuda
