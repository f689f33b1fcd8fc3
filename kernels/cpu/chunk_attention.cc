#include "kernels/cpu/chunk_attention.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/cpu/chunk_attention_heads.h"
#include "kernels/cpu/denormals.h"
#include "kernels/cpu/parallel.h"

namespace fla::cpu {
namespace {

// A call that advances fewer state elements than this is done before other threads have woken up.
constexpr int64_t kSerialStateElements = 64 * 1024;

// Whether a sequence of this call has one token, and that does not fill its chunk.
bool IsStep(const ChunkAttentionArgs& args, int sequence) {
  const int begin = args.cu_seqlens_host[sequence];
  return args.cu_seqlens_host[sequence + 1] - begin == 1 &&
         (args.positions[begin] + 1) % args.spec.chunk != 0;
}

}  // namespace

void ChunkAttention(Stream& stream, const ChunkAttentionArgs& args) {
  if (args.state_dtype != DType::kF32) {
    throw std::invalid_argument(
        std::string("chunk attention on cpu: state dtype: wanted f32, got ") +
        NameOf(args.state_dtype));
  }
  const ChunkAttentionSpec& spec = args.spec;
  const int64_t tasks = int64_t{args.num_sequences} * spec.heads;
  if (tasks == 0) return;
  bool steps_only = true;
  for (int n = 0; n < args.num_sequences; ++n) steps_only = steps_only && IsStep(args, n);
  const int64_t elements = args.out.rows * spec.heads * spec.key_dim * spec.value_dim;
  const int threads = elements < kSerialStateElements
                          ? 1
                          : static_cast<int>(std::min<int64_t>(MaxThreads(), tasks));
  const size_t step = ChunkStepWorkspace(spec);
  const size_t workspace = steps_only ? step : std::max(step, ChunkPiecesWorkspace(spec));
  float* const scratch = static_cast<float*>(stream.Scratch(sizeof(float) * workspace * threads));
  ParallelFor(tasks, threads, [&](int64_t i, int thread) {
    const DenormalsAreZero denormals_are_zero;
    const int sequence = static_cast<int>(i / spec.heads), head = static_cast<int>(i % spec.heads);
    if (args.cu_seqlens_host[sequence] == args.cu_seqlens_host[sequence + 1]) return;
    const ChunkHeadTask task{&args, sequence, head, scratch + workspace * thread};
    IsStep(args, sequence) ? ChunkStepHead(task) : ChunkPiecesHead(task);
  });
}

}  // namespace fla::cpu
