#include "bench/cuda/recurrence_emulator/emulator.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

// The dynamic shared memory that the kernels declare.
namespace fla::cuda {
alignas(1024) char shared[256 << 10];
}

namespace emulator {

Index thread_index, block_index, blockDim, gridDim;

namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int kMaxIdleRounds = 1000, kMaxNamedBarriers = 16;

struct Barrier {
  int arrived = 0;
  unsigned phase = 0;
};
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack = std::make_unique<char[]>(kStackBytes);
  bool done = false;
};
struct Warp {
  Barrier barrier;
  int live = 0;
  uint64_t words[32 * kWarpWords];
};

ucontext_t scheduler;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Warp> warps;
Barrier block_barrier, named_barriers[kMaxNamedBarriers];
int live_threads = 0, current = 0;
bool progress = false;
const std::function<void()>* body = nullptr;

void Complete(Barrier& barrier) {
  barrier.arrived = 0;
  ++barrier.phase;
  progress = true;
}

void ArriveAndWait(Barrier& barrier, int threads) {
  const unsigned phase = barrier.phase;
  if (++barrier.arrived == threads) return Complete(barrier);
  while (barrier.phase == phase) Yield();
}

void RunThread() {
  (*body)();
  Fiber& fiber = *fibers[current];
  fiber.done = true;
  progress = true;
  Warp& warp = warps[current / 32];
  --warp.live;
  --live_threads;
  // Those that wait no longer wait for this thread.
  if (warp.live > 0 && warp.barrier.arrived == warp.live) Complete(warp.barrier);
  if (live_threads > 0 && block_barrier.arrived == live_threads) Complete(block_barrier);
  swapcontext(&fiber.context, &scheduler);
}

void RunBlock(int threads) {
  warps.assign((threads + 31) / 32, Warp());
  for (int i = 0; i < threads; ++i) ++warps[i / 32].live;
  block_barrier = {};
  std::fill(std::begin(named_barriers), std::end(named_barriers), Barrier());
  std::memset(fla::cuda::shared, 0xff, sizeof fla::cuda::shared);  // NaN until written
  live_threads = threads;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = *fibers[i];
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, RunThread, 0);
  }
  for (int idle_rounds = 0; live_threads > 0;) {
    progress = false;
    const int first = std::rand() % threads;  // no order of threads is promised
    for (int i = 0; i < threads; ++i) {
      current = (first + i) % threads;
      if (fibers[current]->done) continue;
      thread_index = {static_cast<unsigned>(current), 0, 0};
      swapcontext(&scheduler, &fibers[current]->context);
    }
    idle_rounds = progress ? 0 : idle_rounds + 1;
    if (idle_rounds > kMaxIdleRounds) {
      std::fprintf(stderr, "emulator: block %u, %u, %u waits for ever\n", block_index.x,
                   block_index.y, block_index.z);
      std::abort();
    }
  }
}

}  // namespace

void Launch(std::function<void()> thread, dim3 grid, dim3 block) {
  const int threads = static_cast<int>(block.x);
  while (static_cast<int>(fibers.size()) < threads) fibers.push_back(std::make_unique<Fiber>());
  body = &thread;
  gridDim = {grid.x, grid.y, grid.z};
  blockDim = {block.x, 1, 1};
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block_index = {x, y, z};
        RunBlock(threads);
      }
    }
  }
}

void Yield() {
  Fiber& fiber = *fibers[current];
  swapcontext(&fiber.context, &scheduler);
}
void SyncWarp() {
  Warp& warp = warps[current / 32];
  ArriveAndWait(warp.barrier, warp.live);
}
void SyncBlock() { ArriveAndWait(block_barrier, live_threads); }
void SyncNamed(int id, int threads) {
  if (id <= 0 || id >= kMaxNamedBarriers) std::abort();
  ArriveAndWait(named_barriers[id], threads);
}
uint64_t* WarpWords() { return warps[current / 32].words; }
int Lane() { return current % 32; }

}  // namespace emulator

// The CUDA runtime, as far as the check uses it, in host memory.
extern "C" {
cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind) {
  std::memcpy(target, source, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(target, value, bytes);
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? 8
           : attribute == cudaDevAttrComputeCapabilityMajor ? 9
           : attribute == cudaDevAttrComputeCapabilityMinor ? 0
                                                            : 227 << 10;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error"; }
}  // extern "C"

namespace fla::cuda {
void Check(cudaError_t, const char*) {}
void CheckLaunch(const char*) {}
}  // namespace fla::cuda
