#include "kernels/recurrence.h"

#include <cstdio>
#include <cstdlib>

#include "kernels/cpu/recurrence.h"
#ifdef FLA_WITH_CUDA
#include "kernels/cuda/recurrence.h"
#endif

namespace fla {
namespace {

// Broken contracts of the caller end the process: running on would write out of bounds.
void Require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "recurrence: %s\n", what);
  std::abort();
}

bool Divides(int part, int whole) { return part > 0 && whole % part == 0; }

bool Fits(const Matrix& matrix, const Matrix& like, int64_t cols) {
  return matrix.dtype == like.dtype && matrix.rows == like.rows && matrix.cols == cols &&
         matrix.stride >= cols;
}

void CheckArgs(const RecurrenceArgs& args) {
  const RecurrenceSpec& spec = args.spec;
  Require(spec.key_dim > 0 && spec.value_dim > 0 && spec.heads > 0, "empty head");
  Require(Divides(spec.q_heads, spec.heads), "q_heads must divide heads");
  Require(Divides(spec.k_heads, spec.heads), "k_heads must divide heads");
  Require(Divides(spec.v_heads, spec.heads), "v_heads must divide heads");
  Require(args.out.dtype == DType::kF32 || args.out.dtype == DType::kBF16,
          "out must be f32 or bf16");
  Require(Fits(args.q, args.out, int64_t{spec.q_heads} * spec.key_dim), "q does not fit out");
  Require(Fits(args.k, args.out, int64_t{spec.k_heads} * spec.key_dim), "k does not fit out");
  Require(Fits(args.v, args.out, int64_t{spec.v_heads} * spec.value_dim), "v does not fit out");
  Require(Fits(args.out, args.out, int64_t{spec.heads} * spec.value_dim), "out has wrong columns");
  Require((args.log_decay != nullptr) == (spec.decay != Decay::kNone) || args.out.rows == 0,
          "log_decay must be given unless decay is none");
  if (spec.decay == Decay::kPerToken || spec.decay == Decay::kPerChannel) {
    Require(Divides(spec.decay_heads, spec.heads), "decay_heads must divide heads");
  }
  Require((args.beta != nullptr) == (spec.update == Update::kDelta) || args.out.rows == 0,
          "beta must be given for the delta rule alone");
  Require(args.num_sequences >= 0, "negative number of sequences");
  Require(args.num_sequences == 0 || (args.state != nullptr && args.slots != nullptr),
          "state or slots missing");
}

void CheckLengths(const RecurrenceArgs& args) {
  const int* const first = args.cu_seqlens_host;
  if (args.num_sequences == 0) return;
  Require(first != nullptr && args.cu_seqlens != nullptr, "cu_seqlens missing");
  Require(first[0] >= 0, "cu_seqlens starts below 0");
  for (int n = 0; n < args.num_sequences; ++n) {
    Require(first[n] <= first[n + 1], "cu_seqlens decreases");
  }
  Require(first[args.num_sequences] <= args.out.rows, "cu_seqlens ends after the last token");
}

}  // namespace

void RecurrentStep(Stream& stream, const RecurrenceArgs& args) {
  CheckArgs(args);
  Require(args.out.rows == args.num_sequences, "a decode step has one token a sequence");
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::RecurrentStep(stream, args);
#endif
  cpu::RecurrentStep(stream, args);
}

void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args) {
  CheckArgs(args);
  CheckLengths(args);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::ChunkedPrefill(stream, args);
#endif
  cpu::ChunkedPrefill(stream, args);
}

}  // namespace fla
