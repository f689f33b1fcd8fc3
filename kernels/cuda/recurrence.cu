#include "kernels/cuda/context.h"
#include "kernels/cuda/recurrence.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/step_collector.h"
#include "kernels/cuda/step_generic.h"
#include "kernels/cuda/step_replay.h"

namespace fla::cuda {

void RecurrentStep(Stream& stream, const RecurrenceArgs& args) {
  if (NeedsGenericRecurrence(args.spec)) {
    return LaunchGenericRecurrent(args, /*step=*/true, MakeCurrent(stream));
  }
  const RecurrenceParams params = ParamsOf(args);
  const Stream::CudaContext& context = *stream.cuda();
  if (args.replay.steps > 0) {
    return LaunchReplayStep(params, ReplayParamsOf(args.spec, args.replay), args.q.dtype,
                            MakeCurrent(stream), context.chained);
  }
  const StepPlan plan = PlanStep(params, args.q.dtype, context.num_multiprocessors, IsHopper());
  if (context.collector != nullptr && params.num_sequences == 1) {
    context.collector->Add(StepRecurrence{params, args.q.dtype, plan});
    return;
  }
  LaunchRecurrent(params, args.q.dtype, plan, MakeCurrent(stream), context.chained);
}

void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args) {
  const cudaStream_t cuda_stream = MakeCurrent(stream);
  if (NeedsGenericRecurrence(args.spec)) {
    return LaunchGenericRecurrent(args, /*step=*/false, cuda_stream);
  }
  const PrefillPlan plan = PlanPrefill(args, stream.cuda()->num_multiprocessors, IsHopper());
  const size_t bytes = PrefillScratchBytes(args, plan);
  void* const scratch = bytes > 0 ? stream.Scratch(bytes) : nullptr;
  LaunchChunkedPrefill(args, plan, scratch, cuda_stream);
}

bool TakesReplay(const RecurrenceSpec& spec) {
  return IsHopper() && !NeedsGenericRecurrence(spec) && spec.value_dim >= kReplayColumns;
}

void ApplyPending(Stream& stream, const PendingUpdates& args) {
  LaunchApplyPending(args, MakeCurrent(stream));
}

bool TakesProjections(const RecurrenceArgs& args) {
  return !NeedsGenericRecurrence(args.spec) && HasProjectedPrepare(args);
}

bool LeavesRoom(const RecurrenceSpec& spec, int tokens) {
  return IsHopper() && !NeedsGenericRecurrence(spec) &&
         ScanLeavesRoom(spec, tokens, Multiprocessors());
}

}  // namespace fla::cuda
