#include "kernels/state_replay.h"

#include "kernels/check.h"
#ifdef FLA_WITH_CUDA
#include "kernels/cuda/recurrence.h"
#endif

namespace fla {

PendingLayout PendingLayoutOf(const RecurrenceSpec& spec, int steps) {
  const auto aligned = [](int64_t numbers) { return (4 * numbers + 15) / 16 * 16; };
  const int64_t places = int64_t{spec.heads} * steps;
  const int tiles = (spec.value_dim + kReplayColumns - 1) / kReplayColumns;
  const int decays = spec.decay == Decay::kPerChannel ? spec.key_dim : 1;
  PendingLayout layout = {};
  layout.updates = layout.counts + aligned(int64_t{spec.heads} * tiles);
  layout.decays = layout.updates + aligned(places * spec.value_dim);
  layout.keys = layout.decays + aligned(places * decays);
  layout.bytes = layout.keys + aligned(places * spec.key_dim);
  return layout;
}

bool TakesReplay([[maybe_unused]] const Stream& stream,
                 [[maybe_unused]] const RecurrenceSpec& spec) {
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::TakesReplay(spec);
#endif
  return false;
}

void ApplyPending([[maybe_unused]] Stream& stream, const PendingUpdates& args) {
  if (args.num_sequences == 0) return;
  FLA_CHECK(args.replay.pending != nullptr && args.state != nullptr && args.slots != nullptr);
#ifdef FLA_WITH_CUDA
  if (stream.device().is_cuda()) return cuda::ApplyPending(stream, args);
#endif
  FLA_CHECK(false);  // nothing waits elsewhere
}

}  // namespace fla
