// One head of one token for each group of 1, 2, 4 ... 32 neighbouring lanes of a warp: the launch
// shape of everything that reduces over a head.
#pragma once

#include <cstdint>

#include "kernels/cuda/context.h"
#include "kernels/cuda/errors.h"

namespace fla::cuda {

constexpr int kHeadThreads = 128;

struct HeadGroups {
  uint32_t count = 0;  // T * H
  uint32_t heads = 0;
  int lanes = 0;  // of a group
};

// Where the calling thread stands. Threads past the last head get valid == false and the last
// head's place: they take part in reductions and write nothing.
struct HeadLane {
  int64_t token;
  int head;
  int lane;  // in its group
  bool valid;
};

__device__ inline HeadLane FindHeadLane(const HeadGroups& groups) {
  const int shift = __ffs(groups.lanes) - 1;
  const uint32_t wanted = blockIdx.x * (kHeadThreads >> shift) + (threadIdx.x >> shift);
  const uint32_t index = wanted < groups.count ? wanted : groups.count - 1;
  return {index / groups.heads, static_cast<int>(index % groups.heads),
          static_cast<int>(threadIdx.x & (groups.lanes - 1)), wanted < groups.count};
}

// The sum (the maximum) of `value` over the lane's group, the same bits in every lane of it.
__device__ inline float GroupSum(const HeadGroups& groups, float value) {
  for (int offset = groups.lanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}
__device__ inline float GroupMax(const HeadGroups& groups, float value) {
  for (int offset = groups.lanes / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

// Groups wide enough that a lane takes N columns of `head_dim` where 32 lanes suffice for that.
inline HeadGroups MakeHeadGroups(int64_t tokens, int64_t heads, int head_dim, int N) {
  int lanes = 1;
  while (lanes < 32 && lanes * N < head_dim) lanes *= 2;
  return {static_cast<uint32_t>(tokens * heads), static_cast<uint32_t>(heads), lanes};
}

inline unsigned HeadBlocks(const HeadGroups& groups) {
  const unsigned heads_a_block = kHeadThreads / groups.lanes;
  return (groups.count + heads_a_block - 1) / heads_a_block;
}

}  // namespace fla::cuda
