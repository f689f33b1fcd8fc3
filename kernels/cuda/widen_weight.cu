#include "kernels/check.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/widen_weight.h"
#include "kernels/fp8.h"

namespace fla::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 8, kPieces = 4;  // neighbouring weights, of a thread

// grid (ceil(pieces / (kPieces * block))), block (kThreads)
__global__ void WidenWeightKernel(const uint2* bytes, const float* scales, int pieces_of_row,
                                  int pieces, uint4* out) {
  const int first = blockIdx.x * kPieces * kThreads + threadIdx.x;
  uint2 words[kPieces];
  float scale[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int piece = first + i * kThreads;
    if (piece >= pieces) continue;
    words[i] = bytes[piece];
    scale[i] = scales[piece / pieces_of_row];
  }
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int piece = first + i * kThreads;
    if (piece >= pieces) return;
    const __nv_bfloat162 factor = WideningFactor(scale[i]);
    constexpr int kLower = 0x5410, kUpper = 0x7632;  // halves of two words
    const auto neighbours = [factor](uint32_t four, uint32_t& first, uint32_t& second) {
      uint32_t odd, even;
      Widen(four, factor, odd, even);
      first = __byte_perm(even, odd, kLower);
      second = __byte_perm(even, odd, kUpper);
    };
    uint4 wide;
    neighbours(words[i].x, wide.x, wide.y);
    neighbours(words[i].y, wide.z, wide.w);
    out[piece] = wide;
  }
}

}  // namespace

bool HoldsFp8(int device_index, int64_t cols) {
  if (cols % kFp8Run != 0 || 2 * kWidenedRows * cols > kWidenedBytes) return false;
  Check(cudaSetDevice(device_index), "cudaSetDevice");
  return IsHopper();
}

Matrix WidenWeight(Stream& stream, const Matrix& weight) {
  const int64_t elements = weight.rows * weight.cols;
  const int64_t bytes = elements * static_cast<int64_t>(sizeof(__nv_bfloat16));
  FLA_CHECK(weight.dtype == DType::kF8E4M3 && weight.contiguous() && weight.cols % kFp8Run == 0);
  FLA_CHECK(bytes <= kWidenedBytes);
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  void* const wide = stream.Scratch(static_cast<size_t>(bytes));
  const auto pieces = static_cast<int>(elements / kAtOnce);
  WidenWeightKernel<<<DivideUp(pieces, kPieces * kThreads), kThreads, 0, cuda_stream>>>(
      static_cast<const uint2*>(weight.data), weight.scales,
      static_cast<int>(weight.cols / kAtOnce), pieces, static_cast<uint4*>(wide));
  CheckLaunch("WidenWeight");
  return {wide, DType::kBF16, weight.rows, weight.cols, weight.cols};
}

}  // namespace fla::cuda
