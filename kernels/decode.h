// A decode step in few kernels: ops of kernels/ops.h put together, for batches in which every
// sequence has one token. What each computes is what the ops that it names compute one after the
// other, up to the rounding of what they would have stored in between.
//
// A backend has them for the shapes where they pay. Each says whether it did the work: where it
// returns false, nothing has happened and the caller runs the ops.
#pragma once

#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace fla {

// Most rows of a DecodeLinear that makes its own input: with more, every block's own copy of x
// costs more than it saves (kernels/cuda/DECODE.md).
inline constexpr int kMaxDecodeLinearRows = 4;

// Most rows of a DecodeLinear on the stream's device.
int MaxDecodeLinearRows(Stream& stream);

// Linear of a few rows, with what comes before and after it. Weights are read once, at the speed of
// memory.
struct DecodeLinearArgs {
  // x [T, in] is one of:
  enum class Input : uint8_t {
    kPlain,        // as it is, bf16
    kNormed,       // the residual stream, f32, through RmsNorm
    kHeadsNormed,  // the recurrence's output, bf16, through OutputNorm
  };
  Input input = Input::kPlain;
  Matrix x;
  const float* norm_weight = nullptr;  // kNormed [in], kHeadsNormed [head_dim] or null
  float eps = 0.0f;
  int head_dim = 0;  // kHeadsNormed; the gate as in OutputNormArgs
  bool normalize = true;
  Matrix gate;
  Activation gate_activation = Activation::kSilu;

  Matrix weight;  // [out, in] bf16 or, HoldsFp8, fp8; kSwiGlu: [2 out, in], gates first

  enum class Output : uint8_t {
    kStore,   // out = x weight^T, bf16 or f32
    kAdd,     // out += x weight^T, f32: the residual stream
    kSwiGlu,  // out = silu(x gates^T) * (x ups^T), bf16
  };
  Output output = Output::kStore;
  Matrix out;  // [T, out]
};
bool DecodeLinear(Stream& stream, const DecodeLinearArgs& args);

// The second half of a low-rank projection: x [N, rank] -> x weight^T + bias.
struct LowRankMap {
  Matrix weight;  // [columns, rank] bf16
  const float* bias = nullptr;
};

// All that lies between the input projection and the recurrence: ShortConvolution, ActivateHeads of
// q and k, LogDecay, the second halves of low-rank decays and output gates, and Beta.
struct PrepareStepArgs {
  // Columns of the packed projection, [N, heads * size], and where their results go, bf16: possibly
  // to where they came from.
  Matrix q, k, v;
  Matrix q_out, k_out, v_out;
  int head_k_dim = 0;
  int head_v_dim = 0;

  // The convolution of q, k and v, whose channels follow each other; width 0: none. Its parts as in
  // ShortConvolutionArgs. The activations are applied without it too.
  int width = 0;
  const float* taps = nullptr;
  float* state = nullptr;
  int64_t slot_stride = 0;
  const int* slots = nullptr;  // [N]; -1: no sequence, nothing is read or written
  Activation qk_activation = Activation::kIdentity;
  Activation v_activation = Activation::kIdentity;
  HeadNorm q_norm = HeadNorm::kNone;
  HeadNorm k_norm = HeadNorm::kNone;
  float norm_eps = 0.0f;
  float rotary_base = 0.0f;        // 0: no rotary embedding
  const int* positions = nullptr;  // [N]

  // The decay: as LogDecay, unless decay.out is null. With a `decay_map`, decay.x [N, rank] goes
  // through it first.
  LogDecayArgs decay;
  LowRankMap decay_map;

  // gate_out [N, columns] bf16 = gate_x [N, rank] through gate_map, unless gate_out is absent.
  Matrix gate_x, gate_out;
  LowRankMap gate_map;

  // Beta, unless beta_out is null.
  Matrix beta;
  float beta_scale = 1.0f;
  float* beta_out = nullptr;
};
bool PrepareStep(Stream& stream, const PrepareStepArgs& args);

}  // namespace fla
