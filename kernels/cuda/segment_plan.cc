#include "kernels/cuda/segment_plan.h"

#include <algorithm>

#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/recurrence_launch.h"

namespace fla::cuda {
namespace {

// Segments shorter than that are all set-up: states come and go, the ring of stages fills.
constexpr int kMinSegmentTokens = 256;
constexpr int kMaxSegments = 128;  // of a sequence
// What the kernels between and before the passes cost besides their work, in cycles: 14 us.
constexpr double kPassCycles = 25000;
constexpr double kRoundCycles = 12000;  // a block's beginning and end: its state, the first stages
constexpr double kWorthwhile = 0.75;
constexpr double kBytesPerCycle = 17;  // of memory, a multiprocessor's share
constexpr int64_t kMaxWorkspaceNumbers = int64_t{1} << 26;

// Cycles of a chunk where a multiprocessor has n slices: the chain of dependent products of one,
// and what each adds; or what its units can do.
struct ChunkCost {
  double chain, slice, busy_slice;

  double Cycles(int slices) const { return std::max(chain + slice * slices, busy_slice * slices); }
};
// Of the pass without outputs, relative.
double LocalCost(const ScanShape& shape) {
  if (shape.wide) return shape.delta ? 0.8 : 0.5;
  return shape.delta ? 0.67 : 0.5;
}

// `width`: tiles of 16 columns of a narrow slice.
ChunkCost CostOf(const ScanShape& shape, int width) {
  const double k = MaxKeyDim(shape.key_dim) / 128.0;
  if (shape.wide) {
    const double half = (0.55 + 0.45 * k) * (shape.delta ? 1175 : 1450);
    return {half, half, 0};
  }
  if (width == 2) {
    return shape.delta ? ChunkCost{450 + 600 * k, 80 * k, 240 * k}
                       : ChunkCost{375 + 450 * k, 60 * k, 160 * k};
  }
  return shape.delta ? ChunkCost{400 + 400 * k, 100 * k, 256 * k}
                     : ChunkCost{325 + 300 * k, 75 * k, 171 * k};
}

// Bytes from and to memory of a chunk and head. Heads that share q and k: as if they did not.
double ChunkBytes(const ScanShape& shape) {
  const int chunk = shape.wide ? kWideChunk : kChunk;
  const int record =
      shape.wide ? MakeWideRecord(shape.delta).bytes
                 : MakeChunkRecord(MaxKeyDim(shape.key_dim), shape.delta, shape.per_channel).bytes;
  return record + 2.0 * chunk * (2 * shape.value_dim + (shape.per_channel ? 0 : 2 * shape.key_dim));
}

// How a scan's blocks lie on the GPU.
struct Blocks {
  int slices;    // of a block
  int columns;   // of a block
  int resident;  // blocks that a multiprocessor holds
};
Blocks BlocksOf(const ScanShape& shape, ScanPass pass, int width, int key_parts, int slices) {
  if (shape.wide) return {slices, 64 * slices, 1};
  // Shared memory has room for two, registers for eight warps: of slices of two tiles for four,
  // where X and O are made of 128 rows of the state.
  const int max_k = MaxKeyDim(shape.key_dim);
  const bool few = width == 2 && shape.delta && max_k > 64 && pass == ScanPass::kFinal;
  const int resident =
      max_k > 128 && width == 1 ? 1 : std::min(2, (few ? 4 : 8) / (slices * key_parts));
  return {slices, 16 * width * slices, resident};
}

// What a pass walks: blocks of `full` chunks each and, where there are others, of no more than
// that.
struct Walk {
  int64_t blocks;       // all
  int64_t full_blocks;  // of the longest ones
  int64_t chunks;       // of all blocks together
  int full;             // chunks of the longest block
};
double PassCycles(const ScanShape& shape, const ChunkCost& cost, const Blocks& blocks,
                  const Walk& walk) {
  if (walk.blocks == 0) return 0;
  const int64_t places = int64_t{shape.multiprocessors} * blocks.resident;
  // Blocks that no longest one leaves a place to come behind these.
  const int full_rounds = DivideUp(walk.full_blocks, places);
  const int rest_rounds = DivideUp(walk.blocks, places) - full_rounds;
  const int64_t rest_blocks = walk.blocks - walk.full_blocks;
  const double rest =
      rest_blocks == 0
          ? 0
          : static_cast<double>(walk.chunks - walk.full * walk.full_blocks) / rest_blocks;
  const double rounds = std::max(walk.full * full_rounds + rest * rest_rounds,
                                 static_cast<double>(walk.chunks) / places);
  const int together = std::min(blocks.resident, DivideUp(walk.blocks, shape.multiprocessors));
  return rounds * cost.Cycles(together * blocks.slices) +
         (full_rounds + rest_rounds) * kRoundCycles;
}

// The walks of the two passes over segments of `tokens` tokens (or, longer than all: over whole
// sequences), for one column block and head.
struct Walks {
  Walk states, maps, last;
  int cut_sequences, max_segments;
  int64_t slots;
};
Walks WalksOf(std::span<const int> cu_seqlens, int tokens, int chunk) {
  Walks walks = {};
  int64_t longest = 0;
  for (size_t n = 1; n < cu_seqlens.size(); ++n) {
    longest = std::max<int64_t>(longest, cu_seqlens[n] - cu_seqlens[n - 1]);
  }
  const int full = DivideUp(std::min<int64_t>(tokens, longest), chunk);
  for (size_t n = 1; n < cu_seqlens.size(); ++n) {
    const int length = cu_seqlens[n] - cu_seqlens[n - 1];
    const int segments = DivideUp(length, tokens);
    if (segments == 0) continue;
    walks.last.blocks += segments;
    walks.last.chunks += DivideUp(length, chunk);
    const int rest = DivideUp(length - (segments - 1) * static_cast<int64_t>(tokens), chunk);
    walks.last.full_blocks += segments - 1 + (rest == full ? 1 : 0);
    walks.states.blocks += segments - 1;
    walks.maps.blocks += std::max(segments - 2, 0);
    walks.cut_sequences += segments > 1 ? 1 : 0;
    walks.max_segments = std::max(walks.max_segments, segments);
  }
  for (Walk* walk : {&walks.states, &walks.maps}) {
    walk->full_blocks = walk->blocks;
    walk->chunks = walk->blocks * full;
  }
  walks.last.full = walks.states.full = walks.maps.full = full;
  walks.slots = cu_seqlens.back() / tokens + static_cast<int64_t>(cu_seqlens.size()) - 1;
  return walks;
}

Walk Times(Walk walk, int64_t count) {
  return {walk.blocks * count, walk.full_blocks * count, walk.chunks * count, walk.full};
}

// segment_combine.cu: one step a segment, by blocks of eight columns or, where one or two of these
// are all that a multiprocessor gets, four; and the way that states take to memory and back, twice.
double CombineCycles(const ScanShape& shape, const Walks& walks) {
  const double k = shape.key_dim / 128.0;
  const int64_t blocks = int64_t{shape.heads} * walks.cut_sequences * shape.value_dim / 8;
  const double step = 2 * blocks <= shape.multiprocessors ? 2900
                      : blocks <= shape.multiprocessors   ? 4700
                                                          : 8000;
  const double steps = shape.delta ? step * k * k * std::max(walks.max_segments - 2, 0) *
                                         DivideUp(blocks, shape.multiprocessors)
                                   : 300.0 * walks.max_segments;
  const double bytes = 4.0 * sizeof(float) * walks.states.blocks * shape.heads *
                       SegmentNumbers(shape.key_dim, shape.value_dim, shape.delta);
  return steps + bytes / (kBytesPerCycle * shape.multiprocessors);
}

double SegmentedCycles(const ScanShape& shape, const Walks& walks, int slices) {
  const int key_parts = MinKeyParts(shape.key_dim);
  const Blocks blocks = BlocksOf(shape, ScanPass::kFinal, 2, key_parts, slices);
  const Blocks local_blocks = BlocksOf(shape, ScanPass::kLocal, 2, key_parts, slices);
  const ChunkCost cost = CostOf(shape, 2);
  const int64_t state_blocks = int64_t{shape.heads} * DivideUp(shape.value_dim, blocks.columns);
  const int64_t map_blocks =
      shape.delta ? int64_t{shape.heads} * DivideUp(shape.key_dim, blocks.columns) : 0;
  Walk local = Times(walks.states, state_blocks);
  const Walk maps = Times(walks.maps, map_blocks);
  local.blocks += maps.blocks;
  local.full_blocks += maps.full_blocks;
  local.chunks += maps.chunks;
  const double moved = ChunkBytes(shape) / (kBytesPerCycle * shape.multiprocessors) * shape.heads;
  const double local_cycles =
      std::max(PassCycles(shape, cost, local_blocks, local), moved * walks.states.chunks);
  const double final_cycles = std::max(
      PassCycles(shape, cost, blocks, Times(walks.last, state_blocks)), moved * walks.last.chunks);
  return LocalCost(shape) * local_cycles + final_cycles + CombineCycles(shape, walks) + kPassCycles;
}

}  // namespace

int64_t SegmentNumbers(int key_dim, int value_dim, bool delta) {
  return int64_t{key_dim} * (value_dim + (delta ? key_dim : 1));
}

int MinKeyParts(int key_dim) { return MaxKeyDim(key_dim) > 128 ? 2 : 1; }

SegmentPlan PlanSegments(const ScanShape& shape, const WholeScan& whole,
                         std::span<const int> cu_seqlens) {
  const int chunk = shape.wide ? kWideChunk : kChunk;
  int longest = 0;
  for (size_t n = 1; n < cu_seqlens.size(); ++n) {
    longest = std::max(longest, cu_seqlens[n] - cu_seqlens[n - 1]);
  }
  if (longest < 2 * kMinSegmentTokens) return {0, whole.slices_per_block};
  const Blocks whole_blocks =
      BlocksOf(shape, ScanPass::kFinal, 1, whole.key_parts, whole.slices_per_block);
  const Walk sequences =
      Times(WalksOf(cu_seqlens, longest, chunk).last,
            int64_t{shape.heads} * DivideUp(shape.value_dim, whole_blocks.columns));
  // Nothing to gain where long sequences do not keep the others waiting.
  const int64_t places = int64_t{shape.multiprocessors} * whole_blocks.resident;
  if (sequences.chunks > sequences.full * places) return {0, whole.slices_per_block};

  SegmentPlan best = {0, whole.slices_per_block};
  const int max_slices =
      shape.wide ? (WidePanels(shape.key_dim) > 2 ? 1 : 2) : 4 / MinKeyParts(shape.key_dim);
  // What wide slices alone would save is no merit of segments.
  double cycles = PassCycles(shape, CostOf(shape, 1), whole_blocks, sequences);
  for (int slices = 1; slices <= max_slices; slices *= 2) {
    cycles = std::min(cycles, SegmentedCycles(shape, WalksOf(cu_seqlens, longest, chunk), slices));
  }
  cycles *= kWorthwhile;
  int before = 0;
  // Every number up to 32 counts, of more the order of magnitude.
  for (int segments = 2; segments <= kMaxSegments; segments += std::max(1, segments / 32)) {
    const int tokens = DivideUp(DivideUp(longest, segments), kWideChunk) * kWideChunk;
    if (tokens < kMinSegmentTokens) break;
    if (tokens == before) continue;
    before = tokens;
    const Walks walks = WalksOf(cu_seqlens, tokens, chunk);
    const int64_t numbers = SegmentNumbers(shape.key_dim, shape.value_dim, shape.delta);
    if (walks.slots * shape.heads * numbers > kMaxWorkspaceNumbers) break;
    for (int slices = 1; slices <= max_slices; slices *= 2) {
      const double estimate = SegmentedCycles(shape, walks, slices);
      if (estimate >= cycles) continue;
      cycles = estimate;
      best = {tokens, slices};
    }
  }
  return best;
}

}  // namespace fla::cuda
