// Maps of each head of q or k: Hedgehog, DPFP and rotary position embedding.
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rotary.cuh"

namespace fla::cuda {
namespace {

// softmax([2x, -2x]) with the maximum 2 max|x| taken out. Values past the first N of a lane are
// read again for each of the three passes.
// grid (T * H * lanes / block), block (kHeadThreads)
template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    HedgehogKernel(HeadGroups groups, Matrix x, int head_dim, Matrix out) {
  const HeadLane at = FindHeadLane(groups);
  const T* from = RowOf<const T>(x, at.token) + static_cast<int64_t>(at.head) * head_dim;
  T* to = RowOf<T>(out, at.token) + static_cast<int64_t>(at.head) * 2 * head_dim;
  const int first = at.lane * N, step = groups.lanes * N;

  float largest = 0.0f;
  for (int column = first; column < head_dim; column += step) {
    float values[N];
    Load(from + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) largest = fmaxf(largest, 2.0f * fabsf(values[i]));
  }
  largest = GroupMax(groups, largest);
  float sum = 0.0f;
  for (int column = first; column < head_dim; column += step) {
    float values[N];
    Load(from + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum += expf(2.0f * values[i] - largest) + expf(-2.0f * values[i] - largest);
    }
  }
  const float factor = 1.0f / GroupSum(groups, sum);
  if (!at.valid) return;
  for (int column = first; column < head_dim; column += step) {
    float values[N], negated[N];
    Load(from + column, values);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      negated[i] = expf(-2.0f * values[i] - largest) * factor;
      values[i] = expf(2.0f * values[i] - largest) * factor;
    }
    Store(to + column, values);
    Store(to + head_dim + column, negated);
  }
}

// A warp computes one head: columns i of y = [relu(x), relu(-x)] times y rolled by 1 .. nu.
// grid (T * H / 4), block (kHeadThreads)
template <typename T>
__global__ void __launch_bounds__(kHeadThreads)
    DpfpKernel(HeadGroups groups, Matrix x, int head_dim, int nu, Matrix out) {
  const HeadLane at = FindHeadLane(groups);
  if (!at.valid) return;
  const int width = 2 * head_dim;
  const T* from = RowOf<const T>(x, at.token) + static_cast<int64_t>(at.head) * head_dim;
  T* to = RowOf<T>(out, at.token) + static_cast<int64_t>(at.head) * width * nu;
  const auto rectified = [&](int i) {
    const float value = i < head_dim ? ToFloat(from[i]) : -ToFloat(from[i - head_dim]);
    return value < 0.0f ? 0.0f : value;
  };
  for (int i = at.lane; i < width; i += 32) {
    const float value = rectified(i);
    for (int j = 1; j <= nu; ++j) {
      to[(j - 1) * width + i] = FromFloat<T>(value * rectified((i - j % width + width) % width));
    }
  }
}

// A lane rotates N neighbouring pairs (i, i + head_dim / 2). The angle is formed in f32 as the fla
// library forms it.
// grid (T * H * lanes / block), block (kHeadThreads)
template <typename T, int N>
__global__ void __launch_bounds__(kHeadThreads)
    RotaryKernel(HeadGroups groups, Matrix x, int head_dim, float base, const int* positions) {
  const HeadLane at = FindHeadLane(groups);
  if (!at.valid) return;
  const int half = head_dim / 2;
  const int position = positions[at.token];
  T* head = RowOf<T>(x, at.token) + static_cast<int64_t>(at.head) * head_dim;
  for (int column = at.lane * N; column < half; column += groups.lanes * N) {
    float low[N], high[N];
    Load(head + column, low);
    Load(head + half + column, high);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      RotationOf(column + i, head_dim, base, position).Turn(low[i], high[i]);
    }
    Store(head + column, low);
    Store(head + half + column, high);
  }
}

}  // namespace

void HedgehogFeatureMap(Stream& stream, Matrix x, int head_dim, Matrix out) {
  if (x.rows == 0) return;
  DispatchElements(x.dtype, Vectorizable(head_dim, {x, out}), [&]<typename T, int N>() {
    const HeadGroups groups = MakeHeadGroups(x.rows, x.cols / head_dim, head_dim, N);
    HedgehogKernel<T, N>
        <<<HeadBlocks(groups), kHeadThreads, 0, MakeCurrent(stream)>>>(groups, x, head_dim, out);
    CheckLaunch("HedgehogFeatureMap");
  });
}

void DpfpFeatureMap(Stream& stream, Matrix x, int head_dim, int nu, Matrix out) {
  if (x.rows == 0) return;
  const int64_t heads = x.cols / head_dim;
  const HeadGroups groups = {static_cast<uint32_t>(x.rows * heads), static_cast<uint32_t>(heads),
                             32};
  const auto launch = [&]<typename T>() {
    DpfpKernel<T><<<HeadBlocks(groups), kHeadThreads, 0, MakeCurrent(stream)>>>(groups, x, head_dim,
                                                                                nu, out);
    CheckLaunch("DpfpFeatureMap");
  };
  x.dtype == DType::kF32 ? launch.template operator()<float>()
                         : launch.template operator()<__nv_bfloat16>();
}

void Rotary(Stream& stream, Matrix x, int head_dim, float base, const int* positions) {
  if (x.rows == 0) return;
  const int half = head_dim / 2;
  DispatchElements(x.dtype, Vectorizable(half, {x}), [&]<typename T, int N>() {
    const HeadGroups groups = MakeHeadGroups(x.rows, x.cols / head_dim, half, N);
    RotaryKernel<T, N><<<HeadBlocks(groups), kHeadThreads, 0, MakeCurrent(stream)>>>(
        groups, x, head_dim, base, positions);
    CheckLaunch("Rotary");
  });
}

}  // namespace fla::cuda
