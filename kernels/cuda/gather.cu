// Rows picked by index: EmbeddingLookup, GatherRows and ZeroRows; and WriteInts, which brings
// indices.
#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/context.h"
#include "kernels/cuda/device_clock.cuh"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/ops.h"

namespace fla::cuda {
namespace {

constexpr int kMaxThreads = 256;

// out[i] = source[rows[i]], converted from S to T; a row below 0 stands for indirect[-1 - row].
// *began, if given, is when the first block began.
// grid (rows of out), block (columns / N rounded up to a warp, at most kMaxThreads)
template <typename S, typename T, int N>
__global__ void GatherRowsKernel(Matrix source, const int* rows, const int* indirect, Matrix out,
                                 DeviceTime* began) {
  if (began != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *began = Now();
  const int64_t row = blockIdx.x;
  const int picked = rows[row];
  const S* from = RowOf<const S>(source, picked >= 0 ? picked : indirect[-1 - picked]);
  T* to = RowOf<T>(out, row);
  for (int column = threadIdx.x * N; column < out.cols; column += blockDim.x * N) {
    float values[N];
    Load(from + column, values);
    Store(to + column, values);
  }
}

constexpr int kZeroBlocks = 16;  // of a region

// grid (kZeroBlocks, regions), block (kMaxThreads)
__global__ void ZeroRowsKernel(const ByteRows* regions, int64_t row) {
  const ByteRows region = regions[blockIdx.y];
  char* const begin = static_cast<char*>(region.begin) + row * region.bytes;
  const int64_t first = blockIdx.x * kMaxThreads + threadIdx.x;
  constexpr int64_t kStep = kZeroBlocks * kMaxThreads;
  if (region.bytes % 16 == 0 && reinterpret_cast<uintptr_t>(begin) % 16 == 0) {
    auto* const target = reinterpret_cast<uint4*>(begin);
    for (int64_t i = first; i < region.bytes / 16; i += kStep) target[i] = make_uint4(0, 0, 0, 0);
  } else {
    auto* const target = reinterpret_cast<uint16_t*>(begin);
    for (int64_t i = first; i < region.bytes / 2; i += kStep) target[i] = 0;
  }
}

constexpr int kIntsALaunch = 1000;  // below 4 KB of parameters, which every GPU takes

struct Ints {
  int values[kIntsALaunch];
};

// A multiprocessor reads one parameter at a time: few are a block's.
constexpr int kIntsABlock = 32;

// grid (ceil(count / kIntsABlock)), block (kIntsABlock)
__global__ void WriteIntsKernel(const __grid_constant__ Ints ints, int count, int* target) {
  BeginNextKernel();
  AwaitPreviousKernel();
  const int i = blockIdx.x * kIntsABlock + threadIdx.x;
  if (i < count) target[i] = ints.values[i];
}

template <typename S>
void Gather(Stream& stream, const char* name, Matrix source, const int* rows, const int* indirect,
            Matrix out, DeviceTime* began) {
  if (out.rows == 0) return;
  DispatchElements(out.dtype, Vectorizable(out.cols, {source, out}), [&]<typename T, int N>() {
    const int64_t threads = std::min<int64_t>(kMaxThreads, (out.cols / N + 31) / 32 * 32);
    GatherRowsKernel<S, T, N>
        <<<static_cast<unsigned>(out.rows), static_cast<unsigned>(std::max<int64_t>(threads, 32)),
           0, MakeCurrent(stream)>>>(source, rows, indirect, out, began);
    CheckLaunch(name);
  });
}

void Gather(Stream& stream, const char* name, Matrix source, const int* rows, const int* indirect,
            Matrix out, DeviceTime* began) {
  switch (source.dtype) {
    case DType::kF32:
      return Gather<float>(stream, name, source, rows, indirect, out, began);
    case DType::kF16:
      return Gather<__half>(stream, name, source, rows, indirect, out, began);
    case DType::kBF16:
      return Gather<__nv_bfloat16>(stream, name, source, rows, indirect, out, began);
    case DType::kF8E4M3:
      FLA_CHECK(false);  // weights of projections alone
  }
}

}  // namespace

void EmbeddingLookup(Stream& stream, const int* tokens, Matrix table, Matrix out,
                     const int* sampled, DeviceTime* began) {
  Gather(stream, "EmbeddingLookup", table, tokens, sampled, out, began);
}

void GatherRows(Stream& stream, Matrix x, const int* rows, Matrix out) {
  Gather(stream, "GatherRows", x, rows, nullptr, out, nullptr);
}

void WriteInts(Stream& stream, std::span<const int> values, int* target) {
  while (!values.empty()) {
    const size_t count = std::min<size_t>(values.size(), kIntsALaunch);
    Ints ints;
    std::copy_n(values.begin(), count, ints.values);
    const int blocks = DivideUp(count, kIntsABlock);
    Check(LaunchChained(WriteIntsKernel, blocks, kIntsABlock, 0, MakeCurrent(stream),
                        stream.cuda()->can_chain, ints, static_cast<int>(count), target),
          "WriteInts");
    values = values.subspan(count);
    target += count;
  }
}

void ZeroRows(Stream& stream, const ByteRows* regions, int count, int64_t row) {
  if (count == 0) return;
  ZeroRowsKernel<<<dim3(kZeroBlocks, count), kMaxThreads, 0, MakeCurrent(stream)>>>(regions, row);
  CheckLaunch("ZeroRows");
}

}  // namespace fla::cuda
