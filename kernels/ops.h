// Everything around the recurrence. Activations are f32 or bf16 (an op's matrices share one dtype
// unless said otherwise); small parameters (norm weights, biases, gates, convolution taps) are f32.
// All arithmetic is f32. T tokens, D model dim, H heads. `out` may be the input where noted.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/device.h"
#include "kernels/device_time.h"
#include "kernels/tensor.h"

namespace fla {

enum class Activation : uint8_t {
  kIdentity,
  kSilu,
  kSigmoid,
  kRelu,
  kReluPlusEps,  // max(x, 0) + 1e-6
  kEluPlusOne,   // x + 1 above 0, else exp(x)
  kGelu,         // x / 2 (1 + erf(x / sqrt 2))
};

// out[t] = table[tokens[t]]. table [vocab, D] of any dtype. A token below 0 stands for
// sampled[-1 - token]: one that the device has chosen and the host has not seen. Tokens are in
// range (checked by the caller: an id outside is undefined behaviour). Where `began` is not null it
// is set to the device's clock: a step of a model begins here.
void EmbeddingLookup(Stream& stream, const int* tokens, Matrix table, Matrix out,
                     const int* sampled = nullptr, DeviceTime* began = nullptr);

// target[i] = values[i], which are in host memory and have been read when this returns. They travel
// with the launch: a copy is another engine's work, and a GPU takes microseconds to change engines.
// For a few thousand values.
void WriteInts(Stream& stream, std::span<const int> values, int* target);

// out[i] = x[rows[i]].
void GatherRows(Stream& stream, Matrix x, const int* rows, Matrix out);

// Memory in rows of `bytes` bytes (an even number), one after the other.
struct ByteRows {
  void* begin;
  int64_t bytes;
};
// Zeroes row `row` of each of `count` regions, whose descriptions are in device memory.
void ZeroRows(Stream& stream, const ByteRows* regions, int count, int64_t row);

// out = x * rsqrt(mean(x^2) + eps) * weight, per row. weight [D].
void RmsNorm(Stream& stream, Matrix x, const float* weight, float eps, Matrix out);

// residual += delta, then out (or delta) = RmsNorm(residual), which may be f32 beside bf16.
void AddRmsNorm(Stream& stream, Matrix residual, Matrix delta, const float* weight, float eps,
                Matrix out);

// out = (x - mean) / sqrt(variance + eps) * weight + bias, per row, both over the row's D entries.
// With `delta`, x += delta comes first, and the norm is that of x as it is stored.
struct LayerNormArgs {
  Matrix x;                       // [T, D], may be f32 while the rest is bf16
  Matrix delta;                   // [T, D] or absent
  const float* weight = nullptr;  // [D]
  const float* bias = nullptr;    // [D]
  float eps = 0.0f;
  Matrix out;  // [T, D], may be delta, not x
};
void LayerNorm(Stream& stream, const LayerNormArgs& args);

// residual += delta. `residual` may be f32 while delta is bf16.
void Add(Stream& stream, Matrix residual, Matrix delta);

// out = x weight^T (+ bias). x [T, in], weight [out, in] f32 or bf16, bias [out] or null,
// out [T, out]. x and weight share a dtype, or x is bf16 and the weight fp8 (HoldsFp8 in
// kernels/linear_weight.h); out may be f32 while they are bf16.
void Linear(Stream& stream, Matrix x, Matrix weight, const float* bias, Matrix out);

// out = silu(gate) * up. gate_up [T, 2 I]: gate in the first half; out [T, I].
void SwiGlu(Stream& stream, Matrix gate_up, Matrix out);

// Causal depthwise convolution over packed sequences, with bias and activation, and with state:
// out[t, c] = act(sum_j weight[c, j] * x[t - (W - 1) + j, c] + bias[c]), where inputs before a
// sequence's first token come from its state and the last W - 1 inputs become its state.
struct ShortConvolutionArgs {
  Matrix x;                       // [T, C], rows may be strided
  const float* weight = nullptr;  // [C, W], tap W - 1 is the current token
  const float* bias = nullptr;    // [C] or null
  int width = 0;                  // W, 2..8
  Activation activation = Activation::kIdentity;
  float* state =
      nullptr;  // slot s, channel c, input j at state[s * slot_stride + c * (W - 1) + j],
  int64_t slot_stride = 0;               // oldest input first
  const int* slots = nullptr;            // [N]; -1 where all sequences have one token: no sequence
  const int* cu_seqlens = nullptr;       // [N + 1]; device memory
  const int* cu_seqlens_host = nullptr;  // the same in host memory
  int num_sequences = 0;
  Matrix out;  // [T, C], not x
  // The first `normed` channels go on through ActivateHeads: an L2 norm over each head_dim of them.
  int64_t normed = 0;
  int head_dim = 0;
  float norm_eps = 0.0f;
};
void ShortConvolution(Stream& stream, const ShortConvolutionArgs& args);

// Activation, then a norm over each head of `head_dim` channels. `out` may be x.
enum class HeadNorm : uint8_t {
  kNone,
  kL2,   // x * rsqrt(sum x^2 + eps)
  kSum,  // x / (sum x + eps)
  kL1,   // x / max(sum |x|, eps)
};
struct ActivateHeadsArgs {
  Matrix x;  // [T, H * head_dim]
  int head_dim = 0;
  Activation activation = Activation::kIdentity;
  HeadNorm norm = HeadNorm::kNone;
  float eps = 0.0f;
  Matrix out;  // [T, H * head_dim]
};
void ActivateHeads(Stream& stream, const ActivateHeadsArgs& args);

// out = a * b, elementwise. `out` may be a or b.
void Multiply(Stream& stream, Matrix a, Matrix b, Matrix out);

// Hedgehog: each head of x becomes softmax([2x, -2x]). x [T, H * K], out [T, H * 2K].
void HedgehogFeatureMap(Stream& stream, Matrix x, int head_dim, Matrix out);

// Deterministic parameter-free projection: with y = [relu(x), relu(-x)] per head, out is
// y * roll(y, j) for j = 1..nu, concatenated. x [T, H * K], out [T, H * 2 K nu].
void DpfpFeatureMap(Stream& stream, Matrix x, int head_dim, int nu, Matrix out);

// Rotary embedding in place, half-split pairs (i, i + head_dim / 2), angle
// position * base^(-2i / head_dim). x [T, H * head_dim], positions [T].
void Rotary(Stream& stream, Matrix x, int head_dim, float base, const int* positions);

// Gate projections -> log decay (natural log, <= 0), f32.
enum class GateKind : uint8_t {
  kLogSigmoid,      // max(logsigmoid(x) / normalizer, clamp_min)               GLA
  kSoftplus,        // -exp(a_log[head]) * softplus(x + dt_bias)                Gated DeltaNet, KDA
  kBoundedSigmoid,  // lower_bound * sigmoid(exp(a_log[head]) * (x + dt_bias))  KDA, lower_bound set
};
struct LogDecayArgs {
  GateKind kind = GateKind::kLogSigmoid;
  Matrix x;  // [T, heads * channels], channels 1 for a decay per token
  int heads = 0;
  const float* a_log = nullptr;    // [heads]
  const float* dt_bias = nullptr;  // [heads * channels] or null
  float normalizer = 1.0f;
  float clamp_min = -__builtin_inff();
  float lower_bound = 0.0f;
  float* out = nullptr;  // [T, heads * channels] contiguous
};
void LogDecay(Stream& stream, const LogDecayArgs& args);

// out = scale * sigmoid(x): the delta rule's write strength. x [T, H], out [T, H] f32 contiguous.
void Beta(Stream& stream, Matrix x, float scale, float* out);

// Per head of `head_dim` channels: RMSNorm (skipped where `normalize` is false) with weight
// [head_dim] or null, then times activation(gate). `out` may be x.
struct OutputNormArgs {
  Matrix x;  // [T, H * head_dim]
  int head_dim = 0;
  bool normalize = true;
  const float* weight = nullptr;
  float eps = 0.0f;
  Matrix gate;  // [T, H * head_dim] or absent
  Activation gate_activation = Activation::kSilu;
  Matrix out;
};
void OutputNorm(Stream& stream, const OutputNormArgs& args);

// Linear attention's normaliser: with z the running sum of k (a state), per head
// out[t] /= scale * (q_t . z_t) + eps, z_t including k_t. In place on `out`.
struct NormalizerArgs {
  Matrix q;  // [T, heads * K]
  Matrix k;  // [T, k_heads * K]
  int key_dim = 0;
  int value_dim = 0;
  int heads = 0;
  int k_heads = 0;
  float scale = 1.0f;
  float eps = 1e-10f;
  float* state = nullptr;  // [S, heads, K]
  const int* slots = nullptr;
  const int* cu_seqlens = nullptr;
  const int* cu_seqlens_host = nullptr;
  int num_sequences = 0;
  Matrix out;  // [T, heads * V]
};
void Normalizer(Stream& stream, const NormalizerArgs& args);

}  // namespace fla
