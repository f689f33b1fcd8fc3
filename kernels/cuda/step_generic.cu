// The recurrence for head sizes that no tuned kernel has: any K and V, token by token, the state in
// shared memory. Right for everything, fast for nothing.
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/step_generic.h"

namespace fla::cuda {
namespace {

constexpr int kColumns = 32;  // of a block, a thread each

struct GenericParams {
  RecurrenceArgs args;
  bool step;  // sequence n is token n
};

// grid (ceil(V / kColumns), H, N), block (kColumns), shared float state [K][kColumns], q, k and
// decays [3][K]
template <typename T, typename S>
__global__ void __launch_bounds__(kColumns) GenericRecurrentKernel(const GenericParams p) {
  const RecurrenceArgs& args = p.args;
  const RecurrenceSpec& spec = args.spec;
  const int K = spec.key_dim, V = spec.value_dim, h = blockIdx.y, n = blockIdx.z;
  const int begin = p.step ? n : args.cu_seqlens[n], end = p.step ? n + 1 : args.cu_seqlens[n + 1];
  if (begin == end || args.slots[n] < 0) return;
  auto* const state = reinterpret_cast<float*>(DynamicShared());
  float* const query = state + K * kColumns;
  float* const key = query + K;
  float* const alpha = key + K;
  const int column = blockIdx.x * kColumns + threadIdx.x;
  const bool active = column < V;
  S* const stored = static_cast<S*>(args.state) +
                    (static_cast<int64_t>(args.slots[n]) * spec.heads + h) * K * V + column;
  for (int i = 0; i < K; ++i) {
    state[i * kColumns + threadIdx.x] =
        active ? ToFloat(stored[static_cast<int64_t>(i) * V]) : 0.0f;
  }
  const int q_head = h / (spec.heads / spec.q_heads), k_head = h / (spec.heads / spec.k_heads);
  const int v_head = h / (spec.heads / spec.v_heads);
  const int decay_head = spec.decay_heads > 0 ? h / (spec.heads / spec.decay_heads) : 0;

  for (int64_t token = begin; token < end; ++token) {
    __syncthreads();
    for (int i = threadIdx.x; i < K; i += kColumns) {
      query[i] = ToFloat(RowOf<const T>(args.q, token)[q_head * K + i]);
      key[i] = ToFloat(RowOf<const T>(args.k, token)[k_head * K + i]);
      float log_decay = 0.0f;
      if (spec.decay == Decay::kPerHead) log_decay = args.log_decay[h];
      if (spec.decay == Decay::kPerToken) {
        log_decay = args.log_decay[token * spec.decay_heads + decay_head];
      }
      if (spec.decay == Decay::kPerChannel) {
        log_decay = args.log_decay[(token * spec.decay_heads + decay_head) * K + i];
      }
      alpha[i] = expf(log_decay);
    }
    __syncthreads();
    float u = active ? ToFloat(RowOf<const T>(args.v, token)[v_head * V + column]) : 0.0f;
    float from_key = 0.0f;
    for (int i = 0; i < K; ++i) {
      float& s = state[i * kColumns + threadIdx.x];
      s *= alpha[i];
      from_key += key[i] * s;
    }
    if (spec.update == Update::kDelta) u = args.beta[token * spec.heads + h] * (u - from_key);
    float out = 0.0f;
    for (int i = 0; i < K; ++i) {
      float& s = state[i * kColumns + threadIdx.x];
      s += key[i] * u;
      out += query[i] * s;
    }
    if (active) RowOf<T>(args.out, token)[h * V + column] = FromFloat<T>(spec.scale * out);
  }
  for (int i = 0; active && i < K; ++i) {
    stored[static_cast<int64_t>(i) * V] = FromFloat<S>(state[i * kColumns + threadIdx.x]);
  }
}

template <typename T, typename S>
void Launch(const GenericParams& p, size_t shared, cudaStream_t stream) {
  const RecurrenceSpec& spec = p.args.spec;
  const auto kernel = GenericRecurrentKernel<T, S>;
  Check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "cudaFuncSetAttribute");
  const dim3 grid(DivideUp(spec.value_dim, kColumns), spec.heads, p.args.num_sequences);
  Check(LaunchChained(kernel, grid, dim3(kColumns), shared, stream, /*chained=*/false, p),
        "GenericRecurrentKernel");
}

}  // namespace

bool NeedsGenericRecurrence(const RecurrenceSpec& spec) {
  return spec.key_dim % 16 != 0 || spec.key_dim > 256 || spec.value_dim % 16 != 0 ||
         spec.value_dim > 512;
}

void LaunchGenericRecurrent(const RecurrenceArgs& args, bool step, cudaStream_t stream) {
  if (args.num_sequences == 0 || args.q.rows == 0) return;
  const size_t shared = sizeof(float) * args.spec.key_dim * (kColumns + 3);
  if (shared > static_cast<size_t>(MaxSharedBytes())) {
    throw std::invalid_argument("recurrence: key_dim: wanted at most " +
                                std::to_string(MaxSharedBytes() / sizeof(float) / (kColumns + 3)) +
                                " on this GPU, got " + std::to_string(args.spec.key_dim));
  }
  const GenericParams p = {args, step};
  const bool bf16_state = args.state_dtype == DType::kBF16;
  if (args.q.dtype == DType::kF32) {
    bf16_state ? Launch<float, __nv_bfloat16>(p, shared, stream)
               : Launch<float, float>(p, shared, stream);
  } else {
    bf16_state ? Launch<__nv_bfloat16, __nv_bfloat16>(p, shared, stream)
               : Launch<__nv_bfloat16, float>(p, shared, stream);
  }
}

}  // namespace fla::cuda
