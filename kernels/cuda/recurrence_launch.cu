// Checks, workspace and the launches of a call: of prefill as PlanPrefill (prefill_plan.cc) says.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/segment_plan.h"
#include "kernels/cuda/step_launch.h"

namespace fla::cuda {
namespace {

void Require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument("recurrence: " + message);
}

void RequireHeads(int heads, int x_heads, const char* name) {
  Require(x_heads > 0 && heads % x_heads == 0, std::string(name) + ": wanted a divisor of heads " +
                                                   std::to_string(heads) + ", got " +
                                                   std::to_string(x_heads));
}

size_t RoundUp(size_t bytes) { return (bytes + 255) / 256 * 256; }

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

// Gates of a decay per token are read one by one, wherever they lie.
bool HasPackedGates(const RecurrenceSpec& spec) { return spec.decay == Decay::kPerChannel; }

// No other is longer.
TokenWindow FirstWindow(const RecurrenceArgs& args, const PrefillPlan& plan) {
  return {0, static_cast<int>(std::min<int64_t>(args.q.rows, plan.window_tokens))};
}

// Of a window.
size_t RecordsBytes(const RecurrenceArgs& args, const PrefillPlan& plan) {
  const int chunk = plan.wide ? kWideChunk : kChunk;
  const int64_t slots = SlotsOfWindow(FirstWindow(args, plan), args.num_sequences, chunk);
  return RoundUp(slots * args.spec.heads * RecordBytes(args.spec, plan.wide));
}

// Slots of segments, with heads.
int64_t SegmentSlots(const RecurrenceArgs& args, const PrefillPlan& plan) {
  return int64_t{args.spec.heads} *
         SlotsOfWindow(FirstWindow(args, plan), args.num_sequences, plan.segment_tokens);
}
SegmentWorkspace SegmentsAt(char* target, const RecurrenceArgs& args, const PrefillPlan& plan) {
  if (plan.segment_tokens == 0) return {};
  const RecurrenceSpec& spec = args.spec;
  const int64_t states = SegmentSlots(args, plan) * spec.key_dim * spec.value_dim;
  SegmentWorkspace segments = {plan.segment_tokens, reinterpret_cast<float*>(target)};
  float* const behind = segments.states + states;
  if (spec.update == Update::kDelta) {
    segments.maps = behind;
  } else if (spec.decay != Decay::kNone) {
    segments.decays = behind;
  }
  return segments;
}

// What a plan's one kernel keeps at `target`: records, then numbers, bytes of each.
struct RingWorkspace {
  RecordRing ring;
  size_t records, numbers;
};
RingWorkspace RingAt(char* target, const RecurrenceArgs& args, const PrefillPlan& plan) {
  RecordRing ring = {};
  const int64_t pairs = int64_t{plan.tracks} * args.spec.heads;
  ring.tracks = plan.tracks;
  ring.places = plan.record_places;
  ring.readers = FusedBlocks(args, plan.slice_width) / args.spec.heads;
  for (int t = 0; t < plan.tracks; ++t) {
    ring.max_slots = std::max(ring.max_slots, SlotsOfTrack(args, t, plan.tracks));
  }
  const size_t records = RoundUp(pairs * ring.places * RecordBytes(args.spec, /*wide=*/false));
  const int64_t emptied = pairs * ring.readers * RecordRing::kApart, filled = pairs * ring.places;
  ring.taken = reinterpret_cast<int*>(target + records);
  ring.emptied = ring.taken + RecordRing::kApart;
  ring.filled = ring.emptied + emptied;
  return {ring, records, (RecordRing::kApart + emptied + filled) * sizeof(int)};
}

template <ScanPass kPass>
void LaunchScan(const RecurrenceParams& params, Update update, const ScanLaunch& launch) {
  if (launch.plan.wide) {
    (update == Update::kDelta ? LaunchWideScan<true, kPass> : LaunchWideScan<false, kPass>)(params,
                                                                                            launch);
  } else {
    (update == Update::kDelta ? LaunchChunkScan<true, kPass>
                              : LaunchChunkScan<false, kPass>)(params, launch);
  }
}

int AttributeOf(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  Check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

bool Aligned(const Matrix& m) {
  return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && m.stride * SizeOf(m.dtype) % 16 == 0;
}

ChunkRecord ChunkRecordOf(const RecurrenceSpec& spec) {
  return MakeChunkRecord(MaxKeyDim(spec.key_dim), spec.update == Update::kDelta,
                         spec.decay == Decay::kPerChannel);
}

WideRecord WideRecordOf(const RecurrenceSpec& spec) {
  return MakeWideRecord(spec.update == Update::kDelta);
}

int64_t RecordBytes(const RecurrenceSpec& spec, bool wide) {
  return wide ? WideRecordOf(spec).bytes : ChunkRecordOf(spec).bytes;
}

int Multiprocessors() { return AttributeOf(cudaDevAttrMultiProcessorCount); }
bool IsHopper() {
  return AttributeOf(cudaDevAttrComputeCapabilityMajor) == 9 &&
         AttributeOf(cudaDevAttrComputeCapabilityMinor) == 0;
}
int MaxSharedBytes() { return AttributeOf(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

bool HasProjectedPrepare(const RecurrenceArgs& args) {
  const RecurrenceProjections& from = args.projections;
  const auto has_norm = [](HeadNorm norm) {
    return norm == HeadNorm::kNone || norm == HeadNorm::kL2;
  };
  const LogDecayArgs& gates = from.log_decay;
  const auto is_bf16 = [](const Matrix& x) { return !x.present() || x.dtype == DType::kBF16; };
  if (args.q.dtype != DType::kBF16 || !is_bf16(gates.x) || !is_bf16(from.beta)) return false;
  if (args.spec.decay == Decay::kPerChannel) {
    return has_norm(from.q_norm) && has_norm(from.k_norm) && gates.x.present() &&
           reinterpret_cast<uintptr_t>(gates.dt_bias) % 16 == 0;
  }
  // The additive rule has no first kernel in wide chunks.
  return args.spec.update == Update::kDelta && from.q_norm == HeadNorm::kNone &&
         from.k_norm == HeadNorm::kNone;
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
  Require(spec.decay == Decay::kNone || args.log_decay || args.projections.log_decay.x.present() ||
              empty,
          "log_decay: missing");
  const bool delta = spec.update == Update::kDelta;
  Require(!delta || args.beta || args.projections.beta.present() || empty, "beta: missing");

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
  p.aligned_rows = Aligned(args.q) && Aligned(args.k) && Aligned(args.v);
  p.aligned_out = Aligned(args.out);
  p.paired_out = args.out.stride % 2 == 0 && reinterpret_cast<uintptr_t>(args.out.data) % 4 == 0;
  return p;
}

bool HasLoadStep(const RecurrenceParams& p, DType dtype) {
  return dtype == DType::kBF16 && p.cu_seqlens == nullptr && p.aligned_rows &&
         p.key_dim == MaxKeyDim(p.key_dim) && p.value_dim % 32 == 0;
}

bool HasTileStep(const RecurrenceParams& p, DType dtype) {
  return dtype == DType::kBF16 && p.cu_seqlens == nullptr && p.value_dim >= kStepTileColumns;
}

StepPlan PlanManyLoads(const RecurrenceParams& p) {
  // Eight rows a thread, by eight warps where K has the rows.
  const bool wide = p.key_dim <= 128 && p.value_dim % 64 == 0;
  return {StepKernel::kLoads, wide ? 64 : 32, /*many=*/true};
}

StepPlan PlanStep(const RecurrenceParams& p, DType dtype, int multiprocessors, bool hopper) {
  const int64_t states = static_cast<int64_t>(p.heads) * p.num_sequences;
  const bool loads = HasLoadStep(p, dtype);
  // Where loads have no kernel or too few bytes a thread: from one and a half rounds of tiles on, a
  // round's copies in hide behind the last one's copies out. Tiles that hang over the state's right
  // side waste threads.
  const int64_t tiles = p.value_dim / kStepTileColumns * states;
  const int state_bytes = p.bf16_state ? 2 : 4;
  const int at_once = StepTilesAtOnce(MaxKeyDim(p.key_dim), state_bytes) * multiprocessors;
  if (hopper && HasTileStep(p, dtype) && p.value_dim % kStepTileColumns == 0 &&
      (!loads || p.bf16_state) && 2 * tiles >= int64_t{3} * at_once) {
    return {StepKernel::kTiles, kStepTileColumns, /*many=*/false};
  }
  constexpr int64_t kCacheBytes = int64_t{50} << 20;
  if (hopper && loads && states * p.key_dim * p.value_dim * state_bytes > kCacheBytes) {
    return PlanManyLoads(p);
  }
  // How K's rows are dealt out to lanes decides in which order they are summed. In f32 a sequence's
  // bits do not depend on its company, so that is decided as if it were alone.
  const int64_t cut_for = dtype == DType::kF32 ? p.heads : states;
  const bool few = p.value_dim / 32 * cut_for < 2 * multiprocessors;
  return {loads ? StepKernel::kLoads : StepKernel::kAny, few && p.key_dim % 32 == 0 ? 16 : 32,
          /*many=*/false};
}

void LaunchRecurrent(const RecurrenceParams& params, DType dtype, const StepPlan& plan,
                     cudaStream_t stream, bool chained) {
  if (params.num_sequences == 0) return;
  switch (plan.kernel) {
    case StepKernel::kAny: {
      const auto launch = dtype == DType::kF32 ? LaunchRecurrentF32
                          : params.bf16_state  ? LaunchRecurrentBf16State
                                               : LaunchRecurrentBf16;
      return launch(params, plan.columns, stream, chained);
    }
    case StepKernel::kLoads: {
      const auto launch = params.bf16_state ? LaunchLoadStepBf16State : LaunchLoadStep;
      return launch(params, plan, stream, chained);
    }
    case StepKernel::kTiles:
      return LaunchTileStep(params, stream, chained);
  }
}

size_t PrefillScratchBytes(const RecurrenceArgs& args, const PrefillPlan& plan) {
  if (args.q.dtype == DType::kF32) return 0;
  const RecurrenceSpec& spec = args.spec;
  const size_t packed_bytes =
      PackedBytes(args.q) + PackedBytes(args.k) + PackedBytes(args.v) +
      (HasPackedGates(spec) ? PackedBytes(args.projections.log_decay.x) : 0);
  if (plan.tracks > 0) {
    // At least what two kernels take, by which a batch of other lengths goes: what is taken at load
    // shall do for all.
    const RingWorkspace workspace = RingAt(nullptr, args, plan);
    return packed_bytes + std::max(workspace.records + workspace.numbers, RecordsBytes(args, plan));
  }
  const int64_t segment_bytes =
      plan.segment_tokens == 0
          ? 0
          : SegmentSlots(args, plan) * sizeof(float) *
                SegmentNumbers(spec.key_dim, spec.value_dim, spec.update == Update::kDelta);
  return packed_bytes + RecordsBytes(args, plan) * (plan.ahead ? 2 : 1) + segment_bytes;
}

void LaunchChunkedPrefill(const RecurrenceArgs& args, const PrefillPlan& plan, void* scratch,
                          cudaStream_t stream) {
  RecurrenceParams params = ParamsOf(args);
  params.cu_seqlens = args.cu_seqlens;
  if (args.num_sequences == 0 || args.q.rows == 0) return;
  if (args.q.dtype == DType::kF32) {
    const StepPlan step = PlanStep(params, DType::kF32, Multiprocessors(), IsHopper());
    return LaunchRecurrent(params, DType::kF32, step, stream);
  }
  char* target = static_cast<char*>(scratch);
  const Matrix q = Packed(args.q, target, stream), k = Packed(args.k, target, stream),
               v = Packed(args.v, target, stream);
  params.q = q.data, params.q_stride = q.stride;
  params.k = k.data, params.k_stride = k.stride;
  params.v = v.data, params.v_stride = v.stride;
  RecurrenceProjections from = args.projections;
  if (HasPackedGates(args.spec)) from.log_decay.x = Packed(from.log_decay.x, target, stream);

  const ChunkRecord record = ChunkRecordOf(args.spec);
  const Update update = args.spec.update;
  if (plan.tracks > 0) {
    Require(CanFuse(args) && FusedBlocks(args, plan.slice_width) * plan.tracks <= Multiprocessors(),
            "tracks: no kernel for these heads, or not for so many");
    const RingWorkspace workspace = RingAt(target, args, plan);
    Check(cudaMemsetAsync(workspace.ring.taken, 0, workspace.numbers, stream), "cudaMemsetAsync");
    return LaunchChannelPrefill(params, from, update, {target}, workspace.ring, plan.slice_width,
                                stream);
  }
  const SegmentWorkspace segments =
      SegmentsAt(target + RecordsBytes(args, plan) * (plan.ahead ? 2 : 1), args, plan);
  const int64_t tokens = args.q.rows;
  const bool cut = segments.tokens > 0;
  const auto window_at = [&](int64_t begin) {
    return TokenWindow{static_cast<int>(begin),
                       static_cast<int>(std::min<int64_t>(begin + plan.window_tokens, tokens))};
  };
  // Where windows run beside each other, the workspace has the records of two.
  const auto workspace_of = [&](int64_t begin) {
    const bool second = plan.ahead && begin / plan.window_tokens % 2 == 1;
    return ChunkWorkspace{target + (second ? RecordsBytes(args, plan) : 0), plan.ahead && begin > 0,
                          segments};
  };
  const int chunk = plan.wide ? kWideChunk : kChunk;
  const auto launch_prepare = [&](int64_t begin, ChunkSlots slots, ChunkWorkspace workspace) {
    if (!plan.wide) {
      LaunchChunkPrepare(params, from, update, record, window_at(begin), slots, workspace,
                         plan.part_channels, stream);
    } else if (update == Update::kDelta) {
      LaunchWidePrepare(params, from, window_at(begin), slots, workspace, stream);
    }
  };
  // Slots of the late chunks and, behind them, of the window.
  const auto late_slots = [&](int64_t begin) {
    const TokenWindow window = window_at(begin);
    const int end = SlotsOfWindow(window, args.num_sequences, chunk);
    if (!plan.late) return ChunkSlots{end, end};
    const int last = (window.end - window.begin - 1) / segments.tokens;
    return ChunkSlots{last * (segments.tokens / chunk), end};
  };
  const auto prepare = [&](int64_t begin) {
    if (begin >= tokens) return;
    const ChunkSlots slots = {0, late_slots(begin).begin};
    if (slots.end > 0) launch_prepare(begin, slots, workspace_of(begin));
  };
  const auto prepare_late = [&](int64_t begin) {
    ChunkWorkspace workspace = workspace_of(begin);
    workspace.beside_scan = true;
    launch_prepare(begin, late_slots(begin), workspace);
  };
  prepare(0);
  for (int64_t begin = 0; begin < tokens; begin += plan.window_tokens) {
    const TokenWindow window = window_at(begin);
    const ChunkWorkspace workspace = workspace_of(begin);
    const ScanLaunch launch = {plan, window, workspace, stream};
    if (cut) {
      if (segments.decays) LaunchSegmentDecays(params, record, window, workspace, stream);
      LaunchScan<ScanPass::kLocal>(params, update, launch);
    } else {
      LaunchScan<ScanPass::kFinal>(params, update, launch);
    }
    if (plan.ahead) prepare(begin + plan.window_tokens);
    if (plan.late) prepare_late(begin);
    if (cut) {
      LaunchSegmentCombine(params, update, window, segments, stream);
      LaunchScan<ScanPass::kFinal>(params, update, launch);
    }
    if (!plan.ahead) prepare(begin + plan.window_tokens);
  }
}

}  // namespace fla::cuda
