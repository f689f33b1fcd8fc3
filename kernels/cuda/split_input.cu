// What a DecodeLinear by weights in eight bits multiplies where StreamLinearKernel does it: its
// input, with the norm before it, each number as two of e4m3 (fp8.cuh). All tiles of a weight read
// it; by themselves they would take longer to split it than to multiply.
#include "kernels/cuda/decode_input.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/split_input.h"
#include "kernels/fp8.h"

namespace fla::cuda {
namespace {

using Input = DecodeLinearArgs::Input;

static_assert(kFp8Run % kVector == 0);

// grid (tokens), block (kInputThreads), shared bf16 [in]
template <Input kInput>
__global__ void __launch_bounds__(kInputThreads)
    SplitInputKernel(const DecodeLinearArgs args, uint8_t* split, float* scales) {
  __shared__ float squares[1][kInputWarps];
  __shared__ uint32_t largest_of[kInputWarps];
  auto* const staged = reinterpret_cast<__nv_bfloat16*>(DynamicShared());
  const int token = blockIdx.x, in = static_cast<int>(args.x.cols);
  BeginNextKernel();
  PrefetchNorm<kInput>(args);
  AwaitPreviousKernel();
  StageInput<kInput, false>(args, token, 1, staged, in, squares);
  __syncthreads();

  uint32_t largest = 0;  // of pairs of magnitudes, which compare as integers do
  for (int column = threadIdx.x * kVector; column < in; column += kInputThreads * kVector) {
    const uint4 x = *reinterpret_cast<const uint4*>(staged + column);
    for (const uint32_t pair : {x.x, x.y, x.z, x.w}) {
      largest = __vmaxu2(largest, pair & 0x7fff7fff);
    }
  }
  largest = __reduce_max_sync(~0u, max(largest & 0xffff, largest >> 16));
  if (threadIdx.x % 32 == 0) largest_of[threadIdx.x / 32] = largest;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kInputWarps; ++w) {
    largest = max(largest, largest_of[w]);
    if (kInput == Input::kNormed) sum += squares[0][w];
  }
  const SplitScale scale = SplitScaleOf(largest >> 7);
  if (threadIdx.x == 0) {
    const float factor =
        kInput == Input::kNormed ? rsqrtf(sum / static_cast<float>(in) + args.eps) : 1.0f;
    scales[token] = scale.scale * factor;
  }
  uint8_t* const row = split + static_cast<int64_t>(token) * 2 * in;
  for (int column = threadIdx.x * kVector; column < in; column += kInputThreads * kVector) {
    const uint4 x = *reinterpret_cast<const uint4*>(staged + column);
    const uint32_t pairs[] = {x.x, x.y, x.z, x.w};
    uint32_t high[2] = {}, low[2] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t of_high, of_low;
      SplitFp8(Low(pairs[i]) * scale.factor, High(pairs[i]) * scale.factor, of_high, of_low);
      high[i / 2] |= of_high << 16 * (i % 2), low[i / 2] |= of_low << 16 * (i % 2);
    }
    uint8_t* const to = row + column / kFp8Run * 2 * kFp8Run + column % kFp8Run;
    *reinterpret_cast<uint2*>(to) = make_uint2(high[0], high[1]);
    *reinterpret_cast<uint2*>(to + kFp8Run) = make_uint2(low[0], low[1]);
  }
}

constexpr size_t kMaxShared = 200 * 1024;
size_t StagedBytes(const Matrix& x) { return static_cast<size_t>(x.cols) * sizeof(__nv_bfloat16); }
size_t BytesOf(const Matrix& x) { return static_cast<size_t>(x.rows * x.cols) * 2; }

template <Input kInput>
void Launch(const DecodeLinearArgs& args, const SplitInput& target, cudaStream_t stream,
            bool chained) {
  const size_t shared = StagedBytes(args.x);
  const auto kernel = SplitInputKernel<kInput>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  Check(LaunchChained(kernel, dim3(static_cast<unsigned>(args.x.rows)), dim3(kInputThreads), shared,
                      stream, chained, args, static_cast<uint8_t*>(target.panels.data),
                      target.scales),
        "SplitInput");
}

}  // namespace

bool CanSplitInput(const DecodeLinearArgs& args) {
  return args.x.cols % kFp8Run == 0 && StagedBytes(args.x) <= kMaxShared && CanStageInput(args);
}

size_t SplitInputBytes(const DecodeLinearArgs& args) {
  return BytesOf(args.x) + static_cast<size_t>(args.x.rows) * sizeof(float);
}

SplitInput LaunchSplitInput(const DecodeLinearArgs& args, void* memory, cudaStream_t stream,
                            bool chained) {
  const Matrix& x = args.x;
  const SplitInput target = {{memory, DType::kBF16, x.rows, x.cols, x.cols},
                             reinterpret_cast<float*>(static_cast<char*>(memory) + BytesOf(x))};
  switch (args.input) {
    case Input::kPlain:
      Launch<Input::kPlain>(args, target, stream, chained);
      break;
    case Input::kNormed:
      Launch<Input::kNormed>(args, target, stream, chained);
      break;
    case Input::kHeadsNormed:
      Launch<Input::kHeadsNormed>(args, target, stream, chained);
      break;
  }
  return target;
}

}  // namespace fla::cuda
