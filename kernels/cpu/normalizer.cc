#include <vector>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"

namespace fla::cpu {
namespace {

// One head of one sequence: token by token, since every z_t needs the one before.
void NormalizeHead(const NormalizerArgs& args, int sequence, int head) {
  const int64_t key_dim = args.key_dim, value_dim = args.value_dim;
  const int k_head = head / (args.heads / args.k_heads);
  float* z =
      args.state + (static_cast<int64_t>(args.slots[sequence]) * args.heads + head) * key_dim;
  thread_local std::vector<float> q_buffer, k_buffer, in_buffer, out_buffer;
  for (int t = args.cu_seqlens_host[sequence]; t < args.cu_seqlens_host[sequence + 1]; ++t) {
    AddFloats(z, ReadRow(args.k, t, k_head * key_dim, key_dim, k_buffer), key_dim, z);
    const float* q = ReadRow(args.q, t, head * key_dim, key_dim, q_buffer);
    const float denominator = args.scale * DotFloats(q, z, key_dim) + args.eps;
    const float* in = ReadRow(args.out, t, head * value_dim, value_dim, in_buffer);
    float* out = OpenRow(args.out, t, head * value_dim, value_dim, out_buffer);
    ScaleFloats(in, 1.0f / denominator, nullptr, value_dim, out);
    FinishRow(args.out, t, head * value_dim, value_dim, out);
  }
}

}  // namespace

void Normalizer(Stream&, const NormalizerArgs& args) {
  ParallelFor(static_cast<int64_t>(args.num_sequences) * args.heads,
              ThreadsFor(args.out.rows * args.out.cols), [&](int64_t task) {
                NormalizeHead(args, static_cast<int>(task / args.heads),
                              static_cast<int>(task % args.heads));
              });
}

}  // namespace fla::cpu
