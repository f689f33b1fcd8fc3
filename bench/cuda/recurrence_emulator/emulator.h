// Runs CUDA kernels on the CPU, one block at a time, a fiber a thread: what recurrence_check needs
// to test the recurrence's kernels where there is no GPU. It finds wrong layouts, indices and
// barriers that never end; it does not find races.
//
// Included first by sources that convert.py has made. Thread safety: one thread.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#undef __global__
#undef __device__
#undef __shared__
#undef __forceinline__
#undef __restrict__
#undef __launch_bounds__
#undef __align__
#undef __grid_constant__
#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __align__(bytes)
#define __grid_constant__
#define threadIdx emulator::thread_index
#define blockIdx emulator::block_index

namespace emulator {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};
extern Index thread_index, block_index, blockDim, gridDim;

// Runs `thread` once for every thread of the grid. Aborts if a block makes no progress.
void Launch(std::function<void()> thread, dim3 grid, dim3 block);

// Lets the other threads of the block run.
void Yield();
// Wait for the other threads of the warp, of the block, and of a named barrier.
void SyncWarp();
void SyncBlock();
void SyncNamed(int id, int threads);

// What the lanes of this warp show each other: kWarpWords words a lane.
inline constexpr int kWarpWords = 4;
uint64_t* WarpWords();
int Lane();

template <typename Config, typename... Parameters, typename... Arguments>
cudaError_t LaunchEx(const Config* config, void (*kernel)(Parameters...),
                     Arguments&&... arguments) {
  Launch([=] { kernel(Parameters(arguments)...); }, config->gridDim, config->blockDim);
  return cudaSuccess;
}

template <typename T>
T Shuffle(T value, int source) {
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  WarpWords()[Lane()] = word;
  SyncWarp();
  word = WarpWords()[source];
  SyncWarp();
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

}  // namespace emulator

using std::max;
using std::min;

inline void __syncwarp() { emulator::SyncWarp(); }
inline void __syncthreads() { emulator::SyncBlock(); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
template <typename T>
T __ldcs(const T* x) {
  return *x;
}
template <typename T>
void __stcs(T* target, T x) {
  *target = x;
}
template <typename T>
T __shfl_sync(unsigned, T x, int lane) {
  return emulator::Shuffle(x, lane % 32);
}
// Of the calling thread's group of `width` neighbours.
template <typename T>
T __shfl_sync(unsigned, T x, int lane, int width) {
  return emulator::Shuffle(x, emulator::Lane() / width * width + lane % width);
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulator::Shuffle(x, emulator::Lane() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T x, int distance, int width) {
  const int lane = emulator::Lane();
  return emulator::Shuffle(x, lane % width >= distance ? lane - distance : lane);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
  }
  return result;
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    ballot |= static_cast<unsigned>(emulator::Shuffle(predicate, lane)) << lane;
  }
  return ballot;
}
