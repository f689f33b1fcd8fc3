#include "kernels/recurrence.h"

#include "kernels/check.h"
#include "kernels/cpu/recurrence.h"
#include "kernels/state_replay.h"
#ifdef FLA_WITH_CUDA
#include "kernels/cuda/recurrence.h"
#endif

namespace fla {
namespace {

bool Divides(int part, int whole) { return part > 0 && whole % part == 0; }

bool Fits(const Matrix& matrix, const Matrix& like, int64_t cols) {
  return matrix.dtype == like.dtype && matrix.rows == like.rows && matrix.cols == cols &&
         matrix.stride >= cols;
}

void CheckArgs(const RecurrenceArgs& args) {
  const RecurrenceSpec& spec = args.spec;
  FLA_CHECK(spec.key_dim > 0 && spec.value_dim > 0 && spec.heads > 0);
  FLA_CHECK(Divides(spec.q_heads, spec.heads));
  FLA_CHECK(Divides(spec.k_heads, spec.heads));
  FLA_CHECK(Divides(spec.v_heads, spec.heads));
  FLA_CHECK(args.out.dtype == DType::kF32 || args.out.dtype == DType::kBF16);
  FLA_CHECK(Fits(args.q, args.out, int64_t{spec.q_heads} * spec.key_dim));
  FLA_CHECK(Fits(args.k, args.out, int64_t{spec.k_heads} * spec.key_dim));
  FLA_CHECK(Fits(args.v, args.out, int64_t{spec.v_heads} * spec.value_dim));
  FLA_CHECK(Fits(args.out, args.out, int64_t{spec.heads} * spec.value_dim));
  const RecurrenceProjections& projections = args.projections;
  const bool has_log_decay = args.log_decay != nullptr || projections.log_decay.x.present();
  FLA_CHECK(has_log_decay == (spec.decay != Decay::kNone) || args.out.rows == 0);
  if (spec.decay == Decay::kPerToken || spec.decay == Decay::kPerChannel) {
    FLA_CHECK(Divides(spec.decay_heads, spec.heads));
  }
  const bool has_beta = args.beta != nullptr || projections.beta.present();
  FLA_CHECK(has_beta == (spec.update == Update::kDelta) || args.out.rows == 0);
  if (projections.log_decay.x.present()) {
    const LogDecayArgs& decay = projections.log_decay;
    const int channels = spec.decay == Decay::kPerChannel ? spec.key_dim : 1;
    FLA_CHECK(spec.decay == Decay::kPerToken || spec.decay == Decay::kPerChannel);
    FLA_CHECK(Fits(decay.x, args.out, int64_t{spec.decay_heads} * channels));
    FLA_CHECK(decay.heads == spec.decay_heads);
  }
  FLA_CHECK(!projections.beta.present() || Fits(projections.beta, args.out, spec.heads));
  FLA_CHECK(args.num_sequences >= 0);
  FLA_CHECK(args.num_sequences == 0 || (args.state != nullptr && args.slots != nullptr));
}

void CheckLengths(const RecurrenceArgs& args) {
  const int* const first = args.cu_seqlens_host;
  if (args.num_sequences == 0) return;
  FLA_CHECK(first != nullptr && args.cu_seqlens != nullptr);
  FLA_CHECK(first[0] >= 0);
  for (int n = 0; n < args.num_sequences; ++n) {
    FLA_CHECK(first[n] <= first[n + 1]);
  }
  FLA_CHECK(first[args.num_sequences] <= args.out.rows);
}

}  // namespace

void RecurrentStep(Stream& stream, const RecurrenceArgs& args) {
  CheckArgs(args);
  FLA_CHECK(args.out.rows == args.num_sequences);
  FLA_CHECK(!args.projections.present());
  FLA_CHECK(args.replay.steps == 0 ||
            (args.state_dtype == DType::kF32 && TakesReplay(stream, args.spec)));
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::RecurrentStep(stream, args);
#endif
  cpu::RecurrentStep(stream, args);
}

void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args) {
  CheckArgs(args);
  CheckLengths(args);
  FLA_CHECK(!args.projections.present() || TakesProjections(stream, args));
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::ChunkedPrefill(stream, args);
#endif
  cpu::ChunkedPrefill(stream, args);
}

bool TakesProjections([[maybe_unused]] const Stream& stream,
                      [[maybe_unused]] const RecurrenceArgs& args) {
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::TakesProjections(args);
#endif
  return false;
}

bool LeavesRoom([[maybe_unused]] const Stream& stream, [[maybe_unused]] const RecurrenceSpec& spec,
                [[maybe_unused]] int tokens) {
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::LeavesRoom(spec, tokens);
#endif
  return false;
}

}  // namespace fla
