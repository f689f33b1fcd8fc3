// All tokens of one sequence for one head, C at a time: kernels/README.md, "Chunks".
#include <cstring>

#include "kernels/cpu/recurrence_heads.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/recurrence_prefill.cc"
// clang-format off: foreach_target.h must come before highway.h.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/recurrence_chunk-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace fla::cpu::HWY_NAMESPACE {

struct PrefillTiles {
  Chunk chunk;
  Tile state;    // [K, columns]
  Tile written;  // [C, columns]: beta v, then u
  Tile out;      // [C, columns]
};

PrefillTiles TakeTiles(const RecurrenceSpec& spec, int columns, Workspace& workspace) {
  const int key_dim = spec.key_dim;
  const bool per_channel = spec.decay == Decay::kPerChannel;
  PrefillTiles tiles;
  Chunk& chunk = tiles.chunk;
  chunk.key_dim = key_dim;
  chunk.delta = spec.update == Update::kDelta;
  chunk.q = workspace.Take(kChunk, key_dim);
  chunk.k = workspace.Take(kChunk, key_dim);
  chunk.alpha = workspace.Take(per_channel ? kChunk : 0, key_dim);
  chunk.sub_k = workspace.Take(per_channel ? kSubChunk : 0, key_dim);
  chunk.k_to_end = workspace.Take(key_dim, kChunk);
  chunk.attention = workspace.Take(kChunk, kChunk);
  chunk.coupling = workspace.Take(chunk.delta ? kChunk : 0, kChunk);
  chunk.carry = workspace.Take(1, key_dim).data;
  chunk.beta = workspace.Take(1, kChunk).data;
  chunk.row_alpha = workspace.Take(1, kChunk).data;
  tiles.state = workspace.Take(key_dim, columns);
  tiles.written = workspace.Take(kChunk, columns);
  tiles.out = workspace.Take(kChunk, columns);
  return tiles;
}

// Reads the tokens [begin, begin + rows) and clears what products are summed into.
void LoadChunk(const HeadTask& task, int64_t begin, int rows, PrefillTiles& tiles) {
  const RecurrenceArgs& args = *task.args;
  const RecurrenceSpec& spec = args.spec;
  Chunk& chunk = tiles.chunk;
  chunk.rows = rows;
  const int64_t q_column = HeadColumn(task.head, spec.q_heads, spec.heads, spec.key_dim);
  const int64_t k_column = HeadColumn(task.head, spec.k_heads, spec.heads, spec.key_dim);
  const int64_t v_column =
      HeadColumn(task.head, spec.v_heads, spec.heads, spec.value_dim) + task.column_begin;
  for (int t = 0; t < rows; ++t) {
    chunk.beta[t] = chunk.delta ? args.beta[(begin + t) * spec.heads + task.head] : 1.0f;
    LoadRow(args.q, begin + t, q_column, spec.key_dim, spec.scale, chunk.q.Row(t));
    LoadRow(args.k, begin + t, k_column, spec.key_dim, 1.0f, chunk.k.Row(t));
    LoadRow(args.v, begin + t, v_column, task.column_count, chunk.beta[t], tiles.written.Row(t));
    if (spec.decay == Decay::kPerChannel) {
      LoadChannelAlpha(args, begin + t, task.head, chunk.alpha.Row(t));
    } else {
      chunk.row_alpha[t] = LogDecayOfRow(args, begin + t, task.head);
    }
  }
  if (spec.decay != Decay::kPerChannel) {
    for (int t = rows; t < PadLanes(rows); ++t) chunk.row_alpha[t] = 0.0f;
    ExpRow(PadLanes(rows), chunk.row_alpha);
  }
  ClearRows(chunk.k_to_end, spec.key_dim);
  ClearRows(chunk.attention, rows);
  if (chunk.delta) ClearRows(chunk.coupling, rows);
  ClearRows(tiles.out, rows);
}

// Out and state of one chunk from its matrices.
void AdvanceChunk(PrefillTiles& tiles, int columns) {
  const Chunk& x = tiles.chunk;
  const Tile u = tiles.written;
  if (x.delta) MultiplyAdd(x.k, tiles.state, x.rows, x.key_dim, columns, u);
  MultiplyAdd(x.q, tiles.state, x.rows, x.key_dim, columns, tiles.out);
  for (int begin = 0; begin < x.rows; begin += kSubChunk) {
    const int rows = HWY_MIN(kSubChunk, x.rows - begin);
    if (x.delta) {
      MultiplyAdd(x.coupling.At(begin, 0), u, rows, begin, columns, u.At(begin, 0));
      SolveUnitLower(x.coupling.At(begin, begin), rows, columns, u.At(begin, 0));
    }
    MultiplyAdd(x.attention.At(begin, 0), u, rows, begin + rows, columns, tiles.out.At(begin, 0));
  }
  for (int i = 0; i < x.key_dim; ++i) ScaleRow(x.carry[i], columns, tiles.state.Row(i));
  MultiplyAdd(x.k_to_end, u, x.key_dim, x.rows, columns, tiles.state);
}

void PrefillHead(const HeadTask& task) {
  const RecurrenceArgs& args = *task.args;
  const RecurrenceSpec& spec = args.spec;
  const int begin = args.cu_seqlens_host[task.sequence];
  const int end = args.cu_seqlens_host[task.sequence + 1];
  if (begin == end) return;
  Workspace workspace(task.workspace);
  PrefillTiles tiles = TakeTiles(spec, task.column_count, workspace);
  float* const state = HeadState(task) + task.column_begin;
  for (int i = 0; i < spec.key_dim; ++i) {
    LoadFloats(state + int64_t{i} * spec.value_dim, task.column_count, 1.0f, tiles.state.Row(i));
  }
  const int64_t out_column = int64_t{task.head} * spec.value_dim + task.column_begin;
  for (int t = begin; t < end; t += kChunk) {
    const int rows = HWY_MIN(kChunk, end - t);
    LoadChunk(task, t, rows, tiles);
    if (spec.decay == Decay::kPerChannel) {
      ApplyChannelDecay(tiles.chunk);
    } else {
      ApplyScalarDecay(tiles.chunk);
    }
    AdvanceChunk(tiles, PadLanes(task.column_count));
    for (int row = 0; row < rows; ++row) {
      StoreRow(tiles.out.Row(row), args.out, t + row, out_column, task.column_count);
    }
  }
  for (int i = 0; i < spec.key_dim; ++i) {
    float* const row = state + int64_t{i} * spec.value_dim;
    std::memcpy(row, tiles.state.Row(i), sizeof(float) * task.column_count);
  }
}

size_t PrefillWorkspace(const RecurrenceSpec& spec, int column_count) {
  Workspace workspace(nullptr);
  TakeTiles(spec, column_count, workspace);
  return workspace.used();
}

}  // namespace fla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fla::cpu {

HWY_EXPORT(PrefillHead);
HWY_EXPORT(PrefillWorkspace);

size_t PrefillWorkspace(const RecurrenceSpec& spec, int column_count) {
  return HWY_DYNAMIC_DISPATCH(PrefillWorkspace)(spec, column_count);
}

void PrefillHead(const HeadTask& task) { HWY_DYNAMIC_DISPATCH(PrefillHead)(task); }

}  // namespace fla::cpu
#endif  // HWY_ONCE
