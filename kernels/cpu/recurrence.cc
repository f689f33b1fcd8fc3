#include "kernels/cpu/recurrence.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/cpu/denormals.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/recurrence_heads.h"

namespace fla::cpu {
namespace {

void CheckState(const RecurrenceArgs& args) {
  if (args.state_dtype != DType::kF32) {
    throw std::invalid_argument(std::string("recurrence on cpu: state dtype: wanted f32, got ") +
                                NameOf(args.state_dtype));
  }
}

// A call that advances fewer state elements than this (about 20 microseconds' worth) is done before
// other threads have woken up.
constexpr int64_t kSerialStateElements = 64 * 1024;

int ThreadsFor(const RecurrenceArgs& args, int64_t tasks) {
  const RecurrenceSpec& spec = args.spec;
  const int64_t elements = args.out.rows * spec.heads * spec.key_dim * spec.value_dim;
  return elements < kSerialStateElements ? 1
                                         : static_cast<int>(std::min<int64_t>(MaxThreads(), tasks));
}

// Narrowest block of value columns that a task of a prefill may get: below it the matrices of a
// chunk, which every block of a head computes for itself, would cost more than the block.
constexpr int kMinColumns = 64;

// Value columns a task: all of them, fewer where there are fewer heads than threads.
int ColumnsPerTask(const RecurrenceArgs& args, int threads) {
  const int64_t heads = int64_t{args.num_sequences} * args.spec.heads;
  const int64_t blocks = (threads + heads - 1) / heads;
  const int columns = PadLanes(static_cast<int>((args.spec.value_dim + blocks - 1) / blocks));
  return std::min(std::max(columns, kMinColumns), args.spec.value_dim);
}

}  // namespace

void RecurrentStep(Stream& stream, const RecurrenceArgs& args) {
  CheckState(args);
  const RecurrenceSpec& spec = args.spec;
  const int64_t tasks = int64_t{args.num_sequences} * spec.heads;
  if (tasks == 0) return;
  const int threads = ThreadsFor(args, tasks);
  const size_t workspace = StepWorkspace(spec);
  float* const scratch = static_cast<float*>(stream.Scratch(sizeof(float) * workspace * threads));
  ParallelFor(tasks, threads, [&](int64_t i, int thread) {
    const DenormalsAreZero denormals_are_zero;
    StepHead({&args, static_cast<int>(i / spec.heads), static_cast<int>(i % spec.heads), 0,
              spec.value_dim, scratch + workspace * thread});
  });
}

void ChunkedPrefill(Stream& stream, const RecurrenceArgs& args) {
  CheckState(args);
  const RecurrenceSpec& spec = args.spec;
  const int64_t heads = int64_t{args.num_sequences} * spec.heads;
  if (heads == 0) return;
  const int columns = ColumnsPerTask(args, MaxThreads());
  const int blocks = (spec.value_dim + columns - 1) / columns;
  const int64_t tasks = heads * blocks;
  const int threads = ThreadsFor(args, tasks);
  const size_t workspace = PrefillWorkspace(spec, columns);
  float* const scratch = static_cast<float*>(stream.Scratch(sizeof(float) * workspace * threads));
  ParallelFor(tasks, threads, [&](int64_t i, int thread) {
    const DenormalsAreZero denormals_are_zero;
    const int64_t head = i / blocks;
    const int begin = static_cast<int>(i % blocks) * columns;
    PrefillHead({&args, static_cast<int>(head / spec.heads), static_cast<int>(head % spec.heads),
                 begin, std::min(columns, spec.value_dim - begin), scratch + workspace * thread});
  });
}

}  // namespace fla::cpu
