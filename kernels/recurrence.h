// The one recurrence behind every model of the family, in the two schedules of a server.
//
// Per head h, with a state S [K, V], row by row t of a sequence:
//
//   S   <- diag(alpha_t) S                                alpha = exp(log_decay), 1 without decay
//   S   <- S + k_t v_t^T                                  kAdditive
//   S   <- S + beta_t k_t (v_t - S^T k_t)^T               kDelta
//   o_t =  scale * S^T q_t                                the updated state is read
//
// | decay       | kAdditive                          | kDelta          |
// | none        | linear attention with feature maps | DeltaNet        |
// | per head    | RetNet, Lightning                  |                 |
// | per token   | simple GLA, Mamba-2                | Gated DeltaNet  |
// | per channel | GLA, HGRN2                         | KDA             |
//
// kernels/README.md derives the chunked form. Follows fla.ops of flash-linear-attention.
#pragma once

#include <cstdint>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace fla {

enum class Decay : uint8_t { kNone, kPerHead, kPerToken, kPerChannel };
enum class Update : uint8_t { kAdditive, kDelta };

// What is computed. `heads` (H) is the number of states a sequence has and of outputs; each other
// head count divides it, and head h reads head h / (H / x_heads) of input x: grouped key/value
// heads (GLA, RetNet) and grouped value heads (Gated DeltaNet, KDA) without repeated copies.
struct RecurrenceSpec {
  Decay decay = Decay::kNone;
  Update update = Update::kAdditive;
  int key_dim = 0;    // K
  int value_dim = 0;  // V
  int heads = 0;      // H
  int q_heads = 0;
  int k_heads = 0;
  int v_heads = 0;
  int decay_heads = 0;  // of kPerToken and kPerChannel
  float scale = 1.0f;   // multiplies q
};

// Inputs of a prefill as a layer's projections leave them: what the ops that are named here would
// store is computed while they are read. Absent parts are RecurrenceArgs' own.
struct RecurrenceProjections {
  HeadNorm q_norm = HeadNorm::kNone;  // of each head of q, as ActivateHeads
  HeadNorm k_norm = HeadNorm::kNone;
  float norm_eps = 0.0f;
  LogDecayArgs log_decay;  // its x, [T, decay_heads] or [T, decay_heads * K], instead of
                           // RecurrenceArgs::log_decay; `out` is not used
  Matrix beta;             // [T, H], as Beta's x, instead of RecurrenceArgs::beta
  float beta_scale = 1.0f;

  bool present() const {
    return q_norm != HeadNorm::kNone || k_norm != HeadNorm::kNone || log_decay.x.present() ||
           beta.present();
  }
};

// Where updates wait beside states, to be written by every `steps`-th step only: state_replay.h.
struct StateReplay {
  int steps = 0;            // r; 0: each step writes its own
  void* pending = nullptr;  // [S, PendingLayout::bytes], zeroed where `state` is
};

// One call over N packed sequences of T tokens in all. Rows of q, k, v and out may be strided
// (columns of a packed projection); q, k, v and out share one dtype, f32 or bf16. Sums are f32.
struct RecurrenceArgs {
  RecurrenceSpec spec;
  Matrix q;                          // [T, q_heads * K]
  Matrix k;                          // [T, k_heads * K]
  Matrix v;                          // [T, v_heads * V]
  const float* log_decay = nullptr;  // natural log, <= 0: kPerHead [H], kPerToken [T, decay_heads],
                                     // kPerChannel [T, decay_heads * K]
  const float* beta = nullptr;       // [T, H], kDelta only
  RecurrenceProjections projections;  // in ChunkedPrefill of what TakesProjections takes
  void* state = nullptr;              // [S, H, K, V], read and updated in place
  DType state_dtype = DType::kF32;    // f32, or bf16 where the backend supports it
  const int* slots = nullptr;         // [N] row of `state` of each sequence, no two equal. -1 in
                                      // RecurrentStep on a GPU: no sequence, `out` is not written
  StateReplay replay;                 // in RecurrentStep of what TakesReplay takes; in other calls
                                      // nothing may wait beside their states (ApplyPending)
  const int* cu_seqlens = nullptr;    // [N + 1] first token of each sequence; device memory
  const int* cu_seqlens_host = nullptr;  // the same in host memory (equal pointers on a CPU)
  int num_sequences = 0;                 // N
  Matrix out;                            // [T, H * V]
};

// Decode: every sequence has exactly one token (T == N; cu_seqlens is not read).
void RecurrentStep(Stream& stream, const RecurrenceArgs& args);

// Prompts: sequences of any length, 0 included (its state is left as it is), from any initial
// state. Equals token-by-token RecurrentStep up to rounding.
void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args);

// Whether ChunkedPrefill takes `args` with its projections. Where it does not, their ops come
// first, as they do before RecurrentStep.
bool TakesProjections(const Stream& stream, const RecurrenceArgs& args);

// Whether ChunkedPrefill of one prompt leaves so much of the device idle that other ops had better
// run beside it (LateLinear of kernels/prefill.h).
bool LeavesRoom(const Stream& stream, const RecurrenceSpec& spec, int tokens);

}  // namespace fla
