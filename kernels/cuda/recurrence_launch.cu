// Checks and plans: which kernels run, over which windows of tokens, in which workspace.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/step.cuh"

namespace fla::cuda {
namespace {

// Workspace that a prefill takes at most, unless one window of kMinWindow tokens needs more.
constexpr int64_t kWorkspaceBytes = int64_t{2} << 30;
constexpr int kMinWindow = 4096;

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument("recurrence: " + message);
}

void RequireHeads(int heads, int x_heads, const char* name) {
  Require(x_heads > 0 && heads % x_heads == 0, std::string(name) + ": wanted a divisor of heads " +
                                                   std::to_string(heads) + ", got " +
                                                   std::to_string(x_heads));
}

size_t RoundUp(size_t bytes) { return (bytes + 255) / 256 * 256; }

bool Aligned(const Matrix& m) {
  return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && m.stride % 8 == 0;
}
size_t PackedBytes(const Matrix& m) {
  return Aligned(m) ? 0 : RoundUp(static_cast<size_t>(m.rows) * m.cols * SizeOf(m.dtype));
}

// Grid: one thread an element. cols is a multiple of 16.
__global__ void PackRowsKernel(const __nv_bfloat16* x, int64_t stride, int64_t cols, int64_t count,
                               __nv_bfloat16* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = x[i / cols * stride + i % cols];
}

// `m` itself where its rows are 16-byte aligned, else a copy at `target`, which moves on.
Matrix Packed(const Matrix& m, char*& target, cudaStream_t stream) {
  if (Aligned(m)) return m;
  Matrix packed = m;
  packed.data = target;
  packed.stride = m.cols;
  const int64_t count = m.rows * m.cols;
  PackRowsKernel<<<static_cast<unsigned>((count + 255) / 256), 256, 0, stream>>>(
      static_cast<const __nv_bfloat16*>(m.data), m.stride, m.cols, count,
      static_cast<__nv_bfloat16*>(packed.data));
  CheckLaunch("PackRowsKernel");
  target += PackedBytes(m);
  return packed;
}

int64_t Slots(int64_t tokens, int num_sequences) { return tokens / kChunk + num_sequences; }

// Tokens of a prefill window.
int64_t WindowTokens(const RecurrenceArgs& args) {
  const int64_t slot_bytes = static_cast<int64_t>(ChunkRecordOf(args.spec).bytes) * args.spec.heads;
  const int64_t slots = kWorkspaceBytes / slot_bytes - args.num_sequences;
  return std::min<int64_t>(args.q.rows, std::max<int64_t>(slots * kChunk, kMinWindow));
}

}  // namespace

ChunkRecord ChunkRecordOf(const RecurrenceSpec& spec) {
  const bool delta = spec.update == Update::kDelta, channel = spec.decay == Decay::kPerChannel;
  const int triangle = 2 * kChunk * kChunk, matrix = 2 * kChunk * spec.key_dim;
  ChunkRecord record;
  int offset = 0;
  const auto place = [&](int bytes) { return std::exchange(offset, offset + bytes); };
  record.attention = place(triangle);
  record.transform = place(delta ? triangle : 0);
  record.decay = place(channel ? 4 * spec.key_dim : 8 * kChunk);
  record.query = place(channel ? matrix : 0);
  record.key_end = place(channel ? matrix : 0);
  record.key_start = place(channel && delta ? matrix : 0);
  record.bytes = offset;
  return record;
}

RecurrenceParams ParamsOf(const RecurrenceArgs& args) {
  const RecurrenceSpec& spec = args.spec;
  Require(spec.key_dim >= 16 && spec.key_dim <= 256 && spec.key_dim % 16 == 0,
          "key_dim: wanted a multiple of 16 up to 256, got " + std::to_string(spec.key_dim));
  Require(spec.value_dim >= 16 && spec.value_dim <= 512 && spec.value_dim % 16 == 0,
          "value_dim: wanted a multiple of 16 up to 512, got " + std::to_string(spec.value_dim));
  RequireHeads(spec.heads, spec.q_heads, "q_heads");
  RequireHeads(spec.heads, spec.k_heads, "k_heads");
  RequireHeads(spec.heads, spec.v_heads, "v_heads");
  const bool per_token = spec.decay == Decay::kPerToken || spec.decay == Decay::kPerChannel;
  if (per_token) RequireHeads(spec.heads, spec.decay_heads, "decay_heads");
  const DType dtype = args.q.dtype;
  Require(dtype == DType::kF32 || dtype == DType::kBF16,
          std::string("dtype: wanted f32 or bf16, got ") + NameOf(dtype));
  Require(args.k.dtype == dtype && args.v.dtype == dtype && args.out.dtype == dtype,
          "q, k, v and out have different dtypes");
  const bool bf16_state = args.state_dtype == DType::kBF16;
  Require(args.state_dtype == DType::kF32 || (bf16_state && dtype == DType::kBF16),
          std::string("state_dtype: wanted f32, or bf16 with bf16 activations, got ") +
              NameOf(args.state_dtype));
  const bool empty = args.q.rows == 0;
  Require(spec.decay == Decay::kNone || args.log_decay || empty, "log_decay: missing");
  const bool delta = spec.update == Update::kDelta;
  Require(!delta || args.beta || empty, "beta: missing");

  RecurrenceParams p = {};
  p.q = args.q.data;
  p.k = args.k.data;
  p.v = args.v.data;
  p.out = args.out.data;
  p.q_stride = args.q.stride;
  p.k_stride = args.k.stride;
  p.v_stride = args.v.stride;
  p.out_stride = args.out.stride;
  p.log_decay = args.log_decay;
  p.beta = delta ? args.beta : nullptr;
  p.state = args.state;
  p.slots = args.slots;
  p.num_sequences = args.num_sequences;
  p.heads = spec.heads;
  p.key_dim = spec.key_dim;
  p.value_dim = spec.value_dim;
  p.q_group = spec.heads / spec.q_heads;
  p.k_group = spec.heads / spec.k_heads;
  p.v_group = spec.heads / spec.v_heads;
  p.decay_heads = per_token ? spec.decay_heads : spec.heads;
  p.decay_group = spec.heads / p.decay_heads;
  p.scale = spec.scale;
  p.decay = spec.decay;
  p.bf16_state = bf16_state;
  const auto paired = [](const Matrix& m) {
    return m.stride % 2 == 0 && reinterpret_cast<uintptr_t>(m.data) % (2 * SizeOf(m.dtype)) == 0;
  };
  p.paired_rows = paired(args.q) && paired(args.k) && paired(args.out);
  return p;
}

void LaunchRecurrent(const RecurrenceParams& params, DType dtype, cudaStream_t stream) {
  if (params.num_sequences == 0) return;
  if (dtype == DType::kF32) {
    LaunchRecurrentF32(params, stream);
  } else if (params.bf16_state) {
    LaunchRecurrentBf16State(params, stream);
  } else {
    LaunchRecurrentBf16(params, stream);
  }
}

size_t PrefillScratchBytes(const RecurrenceArgs& args) {
  if (args.q.dtype == DType::kF32) return 0;
  return PackedBytes(args.q) + PackedBytes(args.k) + PackedBytes(args.v) +
         Slots(WindowTokens(args), args.num_sequences) * args.spec.heads *
             static_cast<size_t>(ChunkRecordOf(args.spec).bytes);
}

void LaunchChunkedPrefill(const RecurrenceArgs& args, void* scratch, cudaStream_t stream) {
  RecurrenceParams params = ParamsOf(args);
  params.cu_seqlens = args.cu_seqlens;
  if (args.num_sequences == 0 || args.q.rows == 0) return;
  if (args.q.dtype == DType::kF32) {
    LaunchRecurrent(params, DType::kF32, stream);
    return;
  }
  char* target = static_cast<char*>(scratch);
  const Matrix q = Packed(args.q, target, stream), k = Packed(args.k, target, stream),
               v = Packed(args.v, target, stream);
  params.q = q.data, params.q_stride = q.stride;
  params.k = k.data, params.k_stride = k.stride;
  params.v = v.data, params.v_stride = v.stride;
  const Matrix& out = args.out;
  params.paired_rows = out.stride % 2 == 0 && reinterpret_cast<uintptr_t>(out.data) % 4 == 0;

  const ChunkRecord record = ChunkRecordOf(args.spec);
  const int64_t tokens = args.q.rows, step = WindowTokens(args);
  for (int64_t begin = 0; begin < tokens; begin += step) {
    const TokenWindow window = {static_cast<int>(begin),
                                static_cast<int>(std::min(begin + step, tokens))};
    LaunchChunkPrepare(params, args.spec.update, record, window, target, stream);
    if (args.spec.update == Update::kDelta) {
      LaunchChunkScanDelta(params, record, window, target, stream);
    } else {
      LaunchChunkScanAdditive(params, record, window, target, stream);
    }
  }
}

}  // namespace fla::cuda
