// How a prefill is cut up: PlanPrefill, a function of shapes.
#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/segment_plan.h"

namespace fla::cuda {
namespace {

// Workspace that a prefill takes at most, unless one window of kMinWindow tokens needs more.
constexpr int64_t kWorkspaceBytes = int64_t{2} << 30;
constexpr int kMinWindow = 4096;

// Tokens of a window where `tokens` do not fit into `max_window`: windows are equal but for chunks,
// for what is cut to fill the GPU fills it in each of them.
int EvenWindow(int64_t tokens, int64_t max_window) {
  if (tokens <= max_window) return static_cast<int>(max_window);
  const int even = DivideUp(tokens, DivideUp(tokens, max_window));
  return static_cast<int>(std::min(int64_t{DivideUp(even, kWideChunk)} * kWideChunk, max_window));
}

// cu_seqlens of the parts of sequences in the window of the longest part, the first such.
std::vector<int> LongestWindow(const RecurrenceArgs& args, int window_tokens) {
  const std::span<const int> cu_seqlens(args.cu_seqlens_host, args.num_sequences + 1);
  std::vector<int> best;
  int longest = -1;
  for (int64_t begin = 0; begin == 0 || begin < args.q.rows; begin += window_tokens) {
    std::vector<int> parts;
    int of_window = 0;
    for (const int64_t end : cu_seqlens) {
      parts.push_back(static_cast<int>(std::clamp<int64_t>(end - begin, 0, window_tokens)));
      if (parts.size() > 1) of_window = std::max(of_window, parts.back() - *(parts.end() - 2));
    }
    if (of_window <= longest) continue;
    longest = of_window;
    best = std::move(parts);
  }
  return best;
}

// The blocks of a scan that does not cut sequences.
void PlanBlocks(const RecurrenceArgs& args, int multiprocessors, PrefillPlan& plan) {
  const RecurrenceSpec& spec = args.spec;
  const int slices = spec.value_dim / 16, max_k = MaxKeyDim(spec.key_dim);
  const int64_t states = static_cast<int64_t>(spec.heads) * args.num_sequences;
  plan.slice_width = 1;
  if (plan.wide) {
    plan.key_parts = plan.slices_per_block = 1;
    if (WidePanels(spec.key_dim) > 2) return;  // shared memory has room for one slice
    // Two slices in a block take 1.5 times as long as one, but share the chunk's operands.
    const int64_t wide_slices = (spec.value_dim + 63) / 64;
    const auto waves = [&](int64_t blocks) {
      return (blocks * states + multiprocessors - 1) / multiprocessors;
    };
    plan.slices_per_block = 3 * waves((wide_slices + 1) / 2) < 2 * waves(wide_slices) ? 2 : 1;
    return;
  }

  // Up to two slices a multiprocessor, the latency of a chunk counts: split the keys. More, the
  // bandwidth of shared memory does.
  plan.key_parts = std::max(1, max_k / (slices * states <= 2 * multiprocessors ? 64 : 128));

  // Slices of a block share one copy of the chunk's operands; fewer fill more multiprocessors.
  const auto blocks = [&](int per_block) { return (slices + per_block - 1) / per_block * states; };
  int& per_block = plan.slices_per_block;
  per_block = 8 / plan.key_parts;
  while (per_block > 1 &&
         (per_block / 2 >= slices || 10 * blocks(per_block) < 9 * multiprocessors)) {
    per_block /= 2;
  }

  // A slice of two tiles uses a chunk's operands twice, but halves the warps: where heads of 128
  // alone nearly fill the GPU. The additive rule has too little else to do.
  constexpr int kPairs = 4;  // of tiles, of a block
  if (spec.update == Update::kDelta && max_k == 128 && slices % (2 * kPairs) == 0 &&
      10 * blocks(2 * kPairs) >= 7 * multiprocessors) {
    plan.slice_width = 2;
    plan.key_parts = 1;
    per_block = kPairs;
  }
}

// One long prompt whose scan leaves room on the GPU: in windows, so that the first kernel of one
// runs beside the scan of the one before. Sequences side by side fill the GPU better than windows
// of them one after the other; a wide scan's block has a multiprocessor's registers for itself.
void PlanWindows(const RecurrenceArgs& args, int multiprocessors, PrefillPlan& plan) {
  const RecurrenceSpec& spec = args.spec;
  constexpr int kWindows = 3, kMinAhead = 4096, kMaxWindow = 4096;
  constexpr int kMinHalved = 16384, kMaxHalved = 32768;
  if (args.num_sequences != 1 || args.q.rows < kMinAhead || RecordBytes(spec, plan.wide) == 0) {
    return;
  }
  // A window's end would round it.
  if (args.state_dtype == DType::kBF16) return;
  const int scan_blocks = (spec.value_dim + 63) / 64 * spec.heads / plan.slices_per_block;
  if (plan.wide && 4 * scan_blocks > 3 * multiprocessors) return;
  const int64_t tokens = std::min<int64_t>((args.q.rows + kWindows - 1) / kWindows, kMaxWindow);
  int64_t window = (tokens + kWideChunk - 1) / kWideChunk * kWideChunk;
  // Where half the GPU is idle, a very long prompt's windows are cut in two, which needs no maps:
  // the first kernel runs beside the local pass.
  const bool halves = plan.wide && WidePanels(spec.key_dim) <= 2 && spec.update == Update::kDelta &&
                      2 * scan_blocks <= multiprocessors && args.q.rows >= 2 * kMinHalved;
  if (halves) {
    window = EvenWindow(args.q.rows, std::clamp<int64_t>(args.q.rows / 4, kMinHalved, kMaxHalved));
  }
  if (2 * window > plan.window_tokens) return;
  plan.ahead = true;
  plan.window_tokens = static_cast<int>(window);
  if (halves) {
    plan.segment_tokens = (plan.window_tokens / 2 + kWideChunk - 1) / kWideChunk * kWideChunk;
  }
}

// One kernel where its blocks of columns nearly fill the GPU: those of narrow slices, else of wide
// ones, whose warps take so many registers that where they are everywhere too few make records.
// Not for tracks of unlike lengths, nor of many short sequences, which begin one after the other.
void PlanTracks(const RecurrenceArgs& args, int multiprocessors, PrefillPlan& plan) {
  constexpr int kMinTokens = 512, kMinTokensInTurn = 1280;
  if (!CanFuse(args)) return;
  for (const int slice_width : {1, 2}) {
    const int tracks = MostTracks(args, slice_width, multiprocessors);
    const int tenths = 10 * tracks * FusedBlocks(args, slice_width) / multiprocessors;
    if (tenths < 7 || (slice_width == 2 && tenths > 8)) continue;
    const int min_tokens = tracks < args.num_sequences ? kMinTokensInTurn : kMinTokens;
    if (args.q.rows < int64_t{min_tokens} * args.num_sequences) continue;
    int longest = 0;
    for (int t = 0; t < tracks; ++t) longest = std::max(longest, SlotsOfTrack(args, t, tracks));
    if (int64_t{kChunk} * 5 * tracks * longest > 6 * args.q.rows) continue;
    plan.tracks = tracks;
    plan.slice_width = slice_width;
    plan.record_places = kRecordPlaces;
    return;
  }
}

}  // namespace

bool CanFuse(const RecurrenceArgs& args) {
  constexpr int kMaxTokens = 1 << 24;  // all chunks of all heads are counted in an int
  return args.spec.decay == Decay::kPerChannel && MaxKeyDim(args.spec.key_dim) == 128 &&
         args.num_sequences <= kMaxFusedSequences && args.q.rows <= kMaxTokens;
}
int FusedBlocks(const RecurrenceArgs& args, int slice_width) {
  return DivideUp(args.spec.value_dim, 64 * slice_width) * args.spec.heads;
}
int MostTracks(const RecurrenceArgs& args, int slice_width, int multiprocessors) {
  return std::min(multiprocessors / FusedBlocks(args, slice_width), args.num_sequences);
}
int SlotsOfTrack(const RecurrenceArgs& args, int track, int tracks) {
  const auto first_slot = [&](int t) {
    const int n = static_cast<int>(int64_t{args.num_sequences} * t / tracks);
    return args.cu_seqlens_host[n] / kChunk + n;
  };
  return first_slot(track + 1) - first_slot(track);
}

bool HasWideKernels(const RecurrenceSpec& spec) { return spec.decay != Decay::kPerChannel; }

PrefillPlan PlanPrefill(const RecurrenceArgs& args, int multiprocessors, bool hopper,
                        bool may_cut) {
  const RecurrenceSpec& spec = args.spec;
  PrefillPlan plan = {};

  // Chunks that are mostly padding cost more than they save.
  plan.wide = hopper && HasWideKernels(spec) && spec.value_dim >= 48 && Aligned(args.out) &&
              args.q.rows > kWideChunk / 2 * int64_t{args.num_sequences};

  const int64_t slot_bytes = std::max<int64_t>(RecordBytes(spec, plan.wide), 1) * spec.heads;
  const int64_t slots = kWorkspaceBytes / slot_bytes - args.num_sequences;
  const int64_t max_window = std::min<int64_t>(
      std::max<int64_t>(slots * (plan.wide ? kWideChunk : kChunk), kMinWindow), int64_t{1} << 30);
  plan.window_tokens = EvenWindow(args.q.rows, max_window);

  PlanBlocks(args, multiprocessors, plan);
  if (!may_cut) {
    PlanShortPrompt(args, multiprocessors, hopper, plan);
    return plan;
  }
  const std::vector<int> cu_seqlens = LongestWindow(args, plan.window_tokens);
  const SegmentPlan segments =
      PlanSegments({spec.heads, spec.key_dim, spec.value_dim, spec.update == Update::kDelta,
                    spec.decay == Decay::kPerChannel, plan.wide, multiprocessors},
                   {plan.key_parts, plan.slices_per_block}, cu_seqlens);
  if (segments.segment_tokens > 0) {
    plan.segment_tokens = segments.segment_tokens;
    plan.slice_width = plan.wide ? 1 : 2;
    plan.key_parts = plan.wide ? 1 : MinKeyParts(spec.key_dim);
    plan.slices_per_block = segments.slices_per_block;
    plan.late = hopper && args.num_sequences == 1 && spec.update == Update::kDelta;
  } else if (hopper) {
    PlanTracks(args, multiprocessors, plan);
    if (plan.tracks == 0) PlanWindows(args, multiprocessors, plan);
  }
  PlanShortPrompt(args, multiprocessors, hopper, plan);
  return plan;
}

void PlanShortPrompt(const RecurrenceArgs& args, int multiprocessors, bool hopper,
                     PrefillPlan& plan) {
  const RecurrenceSpec& spec = args.spec;
  plan.beside_first = plan.part_channels = false;
  if (plan.window_tokens < args.q.rows) return;
  const int64_t slots = SlotsOfWindow({0, static_cast<int>(args.q.rows)}, args.num_sequences,
                                      plan.wide ? kWideChunk : kChunk);
  plan.part_channels = spec.decay == Decay::kPerChannel && plan.tracks == 0 &&
                       slots * spec.heads <= int64_t{kMaxPartBlocks} * multiprocessors;
  if (!hopper || plan.segment_tokens > 0) return;
  if (plan.wide) {
    // Every block of both kernels has a multiprocessor for itself.
    const int64_t columns = DivideUp(spec.value_dim, 64 * plan.slices_per_block);
    plan.beside_first = spec.update == Update::kDelta &&
                        (columns * args.num_sequences + slots) * spec.heads < multiprocessors;
  } else {
    plan.beside_first = spec.update == Update::kAdditive;  // the delta rule's did not gain by it
  }
}

bool ScanLeavesRoom(const RecurrenceSpec& spec, int tokens, int multiprocessors) {
  const int cu_seqlens[] = {0, tokens};
  RecurrenceArgs args;
  args.spec = spec;
  args.q.rows = tokens;
  args.cu_seqlens_host = cu_seqlens;
  args.num_sequences = 1;
  const PrefillPlan plan = PlanPrefill(args, multiprocessors, true);
  // Blocks of 64 columns. Segments fill the GPU.
  const int blocks = DivideUp(spec.value_dim, 64) * spec.heads;
  return plan.segment_tokens == 0 && 8 * blocks <= 3 * multiprocessors;
}

}  // namespace fla::cuda
