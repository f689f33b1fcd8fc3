// One head of one sequence of chunk attention: kernels/README.md, "The open chunk".
#include "kernels/cpu/chunk_attention_heads.h"

#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/chunk_attention_heads.cc"
// clang-format off: foreach_target.h must come before highway.h.
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/recurrence_matmul-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace fla::cpu::HWY_NAMESPACE {

inline constexpr int kPieceRows = 64;  // most tokens that advance a chunk together

// A head's part of the states in memory.
struct HeadChunk {
  float* state;       // [K, V]
  float* normalizer;  // [K]
  float* open;        // [OpenChunkFloats]
  // kLinear
  float* open_state() const { return open; }
  float* open_normalizer(const ChunkAttentionSpec& spec) const {
    return open + int64_t{spec.key_dim} * spec.value_dim;
  }
  // kSoftmax
  float* key(const ChunkAttentionSpec& spec, int row) const {
    return open + int64_t{row} * spec.key_dim;
  }
  float* value(const ChunkAttentionSpec& spec, int row) const {
    return open + int64_t{spec.chunk} * spec.key_dim + int64_t{row} * spec.value_dim;
  }
};

HWY_INLINE HeadChunk StoredState(const ChunkHeadTask& task) {
  const ChunkAttentionArgs& args = *task.args;
  const ChunkAttentionSpec& spec = args.spec;
  const int64_t head = int64_t{args.slots[task.sequence]} * spec.heads + task.head;
  return {static_cast<float*>(args.state) + head * spec.key_dim * spec.value_dim,
          args.normalizer + head * spec.key_dim, args.open + head * OpenChunkFloats(spec)};
}

HWY_INLINE float SumRow(const float* row, int padded_count) {
  const FloatTag d;
  FloatVec sum = hn::Zero(d);
  for (int i = 0; i < padded_count; i += static_cast<int>(hn::Lanes(d))) {
    sum = hn::Add(sum, hn::Load(d, row + i));
  }
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// to += factor * from over `count` floats at any address.
HWY_INLINE void AddScaled(float factor, const float* from, int count, float* to) {
  const FloatTag d;
  const hn::CappedTag<float, 1> d1;
  const int lanes = static_cast<int>(hn::Lanes(d));
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    hn::StoreU(hn::MulAdd(hn::Set(d, factor), hn::LoadU(d, from + i), hn::LoadU(d, to + i)), d,
               to + i);
  }
  for (; i < count; ++i) {
    hn::StoreU(hn::MulAdd(hn::Set(d1, factor), hn::LoadU(d1, from + i), hn::LoadU(d1, to + i)), d1,
               to + i);
  }
}

// weights[0..count) = exp(x - max x), zeros up to `padded_count`; returns their sum.
HWY_INLINE float ExponentiateScores(int count, int padded_count, float* x) {
  float largest = x[0];
  for (int i = 1; i < count; ++i) largest = HWY_MAX(largest, x[i]);
  for (int i = 0; i < count; ++i) x[i] -= largest;
  ExpRow(PadLanes(count), x);
  std::memset(x + count, 0, sizeof(float) * (padded_count - count));
  return SumRow(x, padded_count);
}

// The tiles of a piece, and the states that it advances.
struct PieceTiles {
  Tile q;                  // [P, K]
  Tile inside_q;           // [P, K] kSoftmax: scale q
  Tile k;                  // [P, K], of the piece; kSoftmax: [C, K], of the open chunk
  Tile k_t;                // k transposed
  Tile v;                  // [P, V] or [C, V]
  Tile scores;             // [P, P] or [P, C]
  Tile inside;             // [P, V]
  Tile outside;            // [P, V]
  Tile state, open_state;  // [K, V]
  float* normalizer;       // [K]
  float* open_normalizer;  // [K]
};

PieceTiles TakeTiles(const ChunkAttentionSpec& spec, Workspace& workspace) {
  const bool softmax = spec.rule == ChunkRule::kSoftmax;
  const int rows = HWY_MIN(kPieceRows, spec.chunk), keys = softmax ? spec.chunk : rows;
  PieceTiles tiles;
  tiles.q = workspace.Take(rows, spec.key_dim);
  tiles.inside_q = workspace.Take(softmax ? rows : 0, spec.key_dim);
  tiles.k = workspace.Take(keys, spec.key_dim);
  tiles.k_t = workspace.Take(spec.key_dim, keys);
  tiles.v = workspace.Take(keys, spec.value_dim);
  tiles.scores = workspace.Take(rows, keys);
  tiles.inside = workspace.Take(rows, spec.value_dim);
  tiles.outside = workspace.Take(rows, spec.value_dim);
  tiles.state = workspace.Take(spec.key_dim, spec.value_dim);
  tiles.open_state = workspace.Take(softmax ? 0 : spec.key_dim, spec.value_dim);
  tiles.normalizer = workspace.Take(1, spec.key_dim).data;
  tiles.open_normalizer = workspace.Take(1, spec.key_dim).data;
  return tiles;
}

void LoadState(const float* from, int rows, int columns, Tile to) {
  for (int i = 0; i < rows; ++i) LoadFloats(from + int64_t{i} * columns, columns, 1.0f, to.Row(i));
}

void StoreState(Tile from, int rows, int columns, float* to) {
  for (int i = 0; i < rows; ++i) {
    std::memcpy(to + int64_t{i} * columns, from.Row(i), sizeof(float) * columns);
  }
}

// The tokens of a piece: `rows` from token `token` of the call on, behind `before` open tokens of
// their chunk.
struct Piece {
  int64_t token;
  int rows;
  int before;
};

// Reads the piece's rows. The keys and values of kSoftmax are those of the whole open chunk, of
// which the earlier ones stand there already.
void LoadPiece(const ChunkHeadTask& task, const Piece& piece, const PieceTiles& tiles) {
  const ChunkAttentionArgs& args = *task.args;
  const ChunkAttentionSpec& spec = args.spec;
  const bool softmax = spec.rule == ChunkRule::kSoftmax;
  const int first = softmax ? piece.before : 0;
  const int64_t key_column = int64_t{task.head} * spec.key_dim;
  const int64_t value_column = int64_t{task.head} * spec.value_dim;
  for (int r = 0; r < piece.rows; ++r) {
    const int64_t t = piece.token + r;
    LoadRow(args.q, t, key_column, spec.key_dim, 1.0f, tiles.q.Row(r));
    if (softmax) LoadRow(args.q, t, key_column, spec.key_dim, spec.scale, tiles.inside_q.Row(r));
    LoadRow(args.k, t, key_column, spec.key_dim, 1.0f, tiles.k.Row(first + r));
    LoadRow(args.v, t, value_column, spec.value_dim, 1.0f, tiles.v.Row(first + r));
  }
  Transpose(tiles.k.At(first, 0), piece.rows, spec.key_dim, tiles.k_t.At(0, first));
}

// tiles.inside = what the piece's tokens see of their own chunk.
void AttendInside(const ChunkAttentionSpec& spec, const Piece& piece, const PieceTiles& tiles) {
  const bool softmax = spec.rule == ChunkRule::kSoftmax;
  const int first = softmax ? piece.before : 0, keys = first + piece.rows;
  const int padded_keys = PadLanes(keys), padded_values = PadLanes(spec.value_dim);
  ClearRows(tiles.scores, piece.rows);
  ClearRows(tiles.inside, piece.rows);
  MultiplyAdd(softmax ? tiles.inside_q : tiles.q, tiles.k_t, piece.rows, spec.key_dim, padded_keys,
              tiles.scores);
  float divisors[kPieceRows];
  for (int r = 0; r < piece.rows; ++r) {
    float* const scores = tiles.scores.Row(r);
    const int seen = first + r + 1;
    if (softmax) {
      divisors[r] = ExponentiateScores(seen, padded_keys, scores);
    } else {
      std::memset(scores + seen, 0, sizeof(float) * (padded_keys - seen));
      divisors[r] = SumRow(scores, padded_keys) +
                    Dot(tiles.q.Row(r), tiles.open_normalizer, PadLanes(spec.key_dim)) + spec.eps;
    }
  }
  if (!softmax && piece.before > 0) {
    MultiplyAdd(tiles.q, tiles.open_state, piece.rows, spec.key_dim, padded_values, tiles.inside);
  }
  MultiplyAdd(tiles.scores, tiles.v, piece.rows, keys, padded_values, tiles.inside);
  for (int r = 0; r < piece.rows; ++r) {
    ScaleRow(1.0f / divisors[r], padded_values, tiles.inside.Row(r));
  }
}

// tiles.outside = what they see of the chunks before.
void AttendOutside(const ChunkAttentionSpec& spec, const Piece& piece, const PieceTiles& tiles) {
  const int padded_values = PadLanes(spec.value_dim);
  ClearRows(tiles.outside, piece.rows);
  MultiplyAdd(tiles.q, tiles.state, piece.rows, spec.key_dim, padded_values, tiles.outside);
  for (int r = 0; r < piece.rows; ++r) {
    const float divisor = Dot(tiles.q.Row(r), tiles.normalizer, PadLanes(spec.key_dim)) + spec.eps;
    ScaleRow(1.0f / divisor, padded_values, tiles.outside.Row(r));
  }
}

// state += keys^T values, normalizer += sum of keys, of `rows` rows.
void AddTokens(const ChunkAttentionSpec& spec, int rows, const PieceTiles& tiles, Tile state,
               float* normalizer) {
  MultiplyAdd(tiles.k_t, tiles.v, spec.key_dim, rows, PadLanes(spec.value_dim), state);
  for (int r = 0; r < rows; ++r) {
    AddScaled(1.0f, tiles.k.Row(r), spec.key_dim, normalizer);
  }
}

// What the piece leaves behind. kLinear sums up the open chunk token by token and adds the sums
// when it closes; kSoftmax needs its keys and values one by one and sums them up only then.
void Advance(const ChunkAttentionSpec& spec, const Piece& piece, const PieceTiles& tiles) {
  const bool closes = piece.before + piece.rows == spec.chunk;
  if (spec.rule == ChunkRule::kSoftmax) {
    if (closes) AddTokens(spec, spec.chunk, tiles, tiles.state, tiles.normalizer);
    return;
  }
  AddTokens(spec, piece.rows, tiles, tiles.open_state, tiles.open_normalizer);
  if (!closes) return;
  for (int i = 0; i < spec.key_dim; ++i) {
    AddScaled(1.0f, tiles.open_state.Row(i), spec.value_dim, tiles.state.Row(i));
  }
  AddScaled(1.0f, tiles.open_normalizer, spec.key_dim, tiles.normalizer);
  ClearRows(tiles.open_state, spec.key_dim);
  std::memset(tiles.open_normalizer, 0, sizeof(float) * spec.key_dim);
}

void ChunkPiecesHead(const ChunkHeadTask& task) {
  const ChunkAttentionArgs& args = *task.args;
  const ChunkAttentionSpec& spec = args.spec;
  const bool softmax = spec.rule == ChunkRule::kSoftmax;
  const int64_t begin = args.cu_seqlens_host[task.sequence];
  const int64_t end = args.cu_seqlens_host[task.sequence + 1];
  const HeadChunk stored = StoredState(task);
  Workspace workspace(task.workspace);
  const PieceTiles tiles = TakeTiles(spec, workspace);
  const int key_dim = spec.key_dim, value_dim = spec.value_dim;
  int before = args.positions[begin] % spec.chunk;
  LoadState(stored.state, key_dim, value_dim, tiles.state);
  LoadFloats(stored.normalizer, key_dim, 1.0f, tiles.normalizer);
  if (softmax) {
    LoadState(stored.key(spec, 0), before, key_dim, tiles.k);
    LoadState(stored.value(spec, 0), before, value_dim, tiles.v);
    Transpose(tiles.k, before, key_dim, tiles.k_t);
  } else {
    LoadState(stored.open_state(), key_dim, value_dim, tiles.open_state);
    LoadFloats(stored.open_normalizer(spec), key_dim, 1.0f, tiles.open_normalizer);
  }
  int kept = before;  // rows of the stored keys and values that are those of the open chunk

  Piece piece;
  for (piece.token = begin; piece.token < end; piece.token += piece.rows) {
    piece.before = before;
    piece.rows = static_cast<int>(
        HWY_MIN(int64_t{HWY_MIN(kPieceRows, spec.chunk - before)}, end - piece.token));
    LoadPiece(task, piece, tiles);
    AttendInside(spec, piece, tiles);
    AttendOutside(spec, piece, tiles);
    Advance(spec, piece, tiles);
    for (int r = 0; r < piece.rows; ++r) {
      AddScaled(1.0f, tiles.inside.Row(r), value_dim, tiles.outside.Row(r));
      StoreRow(tiles.outside.Row(r), args.out, piece.token + r, int64_t{task.head} * value_dim,
               value_dim);
    }
    before = (before + piece.rows) % spec.chunk;
    if (before == 0) kept = 0;
  }

  StoreState(tiles.state, key_dim, value_dim, stored.state);
  std::memcpy(stored.normalizer, tiles.normalizer, sizeof(float) * key_dim);
  if (softmax) {
    StoreState(tiles.k.At(kept, 0), before - kept, key_dim, stored.key(spec, kept));
    StoreState(tiles.v.At(kept, 0), before - kept, value_dim, stored.value(spec, kept));
  } else {
    StoreState(tiles.open_state, key_dim, value_dim, stored.open_state());
    std::memcpy(stored.open_normalizer(spec), tiles.open_normalizer, sizeof(float) * key_dim);
  }
}

struct StepTiles {
  float *q, *k;                 // [K]
  float *v, *inside, *outside;  // [V]
  float* state_row;             // [K]
  float* scores;                // [C], kSoftmax
};

StepTiles TakeStepTiles(const ChunkAttentionSpec& spec, Workspace& workspace) {
  StepTiles tiles;
  tiles.q = workspace.Take(1, spec.key_dim).data;
  tiles.k = workspace.Take(1, spec.key_dim).data;
  tiles.v = workspace.Take(1, spec.value_dim).data;
  tiles.inside = workspace.Take(1, spec.value_dim).data;
  tiles.outside = workspace.Take(1, spec.value_dim).data;
  tiles.state_row = workspace.Take(1, spec.key_dim).data;
  tiles.scores = workspace.Take(1, spec.rule == ChunkRule::kSoftmax ? spec.chunk : 0).data;
  return tiles;
}

// Sum of a[i] * b[i], a padded, b at any address.
HWY_INLINE float DotStored(const float* a, const float* b, int count, float* scratch) {
  LoadFloats(b, count, 1.0f, scratch);
  return Dot(a, scratch, PadLanes(count));
}

// inside = what the token sees of its chunk, itself included, which joins the stored sums.
void StepLinear(const ChunkAttentionSpec& spec, const HeadChunk& stored, const StepTiles& x) {
  float* const normalizer = stored.open_normalizer(spec);
  AddScaled(1.0f, x.k, spec.key_dim, normalizer);
  for (int i = 0; i < spec.key_dim; ++i) {
    float* const row = stored.open_state() + int64_t{i} * spec.value_dim;
    AddScaled(x.k[i], x.v, spec.value_dim, row);
    AddScaled(x.q[i], row, spec.value_dim, x.inside);
  }
  const float divisor = DotStored(x.q, normalizer, spec.key_dim, x.state_row) + spec.eps;
  ScaleRow(1.0f / divisor, PadLanes(spec.value_dim), x.inside);
}

// The same; the token's key and value join those that are stored.
void StepSoftmax(const ChunkAttentionSpec& spec, const HeadChunk& stored, int before,
                 const StepTiles& x) {
  std::memcpy(stored.key(spec, before), x.k, sizeof(float) * spec.key_dim);
  std::memcpy(stored.value(spec, before), x.v, sizeof(float) * spec.value_dim);
  for (int s = 0; s <= before; ++s) {
    x.scores[s] = spec.scale * DotStored(x.q, stored.key(spec, s), spec.key_dim, x.state_row);
  }
  const float divisor = ExponentiateScores(before + 1, PadLanes(before + 1), x.scores);
  for (int s = 0; s <= before; ++s) {
    AddScaled(x.scores[s], stored.value(spec, s), spec.value_dim, x.inside);
  }
  ScaleRow(1.0f / divisor, PadLanes(spec.value_dim), x.inside);
}

void ChunkStepHead(const ChunkHeadTask& task) {
  const ChunkAttentionArgs& args = *task.args;
  const ChunkAttentionSpec& spec = args.spec;
  const int64_t t = args.cu_seqlens_host[task.sequence];
  const int64_t key_column = int64_t{task.head} * spec.key_dim;
  const int64_t value_column = int64_t{task.head} * spec.value_dim;
  const HeadChunk stored = StoredState(task);
  Workspace workspace(task.workspace);
  const StepTiles x = TakeStepTiles(spec, workspace);
  LoadRow(args.q, t, key_column, spec.key_dim, 1.0f, x.q);
  LoadRow(args.k, t, key_column, spec.key_dim, 1.0f, x.k);
  LoadRow(args.v, t, value_column, spec.value_dim, 1.0f, x.v);
  std::memset(x.inside, 0, sizeof(float) * PadLanes(spec.value_dim));
  std::memset(x.outside, 0, sizeof(float) * PadLanes(spec.value_dim));
  const int before = args.positions[t] % spec.chunk;
  if (spec.rule == ChunkRule::kSoftmax) {
    StepSoftmax(spec, stored, before, x);
  } else {
    StepLinear(spec, stored, x);
  }
  for (int i = 0; i < spec.key_dim; ++i) {
    AddScaled(x.q[i], stored.state + int64_t{i} * spec.value_dim, spec.value_dim, x.outside);
  }
  const float divisor = DotStored(x.q, stored.normalizer, spec.key_dim, x.state_row) + spec.eps;
  ScaleRow(1.0f / divisor, PadLanes(spec.value_dim), x.outside);
  AddScaled(1.0f, x.inside, spec.value_dim, x.outside);
  StoreRow(x.outside, args.out, t, value_column, spec.value_dim);
}

size_t ChunkStepWorkspace(const ChunkAttentionSpec& spec) {
  Workspace workspace(nullptr);
  TakeStepTiles(spec, workspace);
  return workspace.used();
}

size_t ChunkPiecesWorkspace(const ChunkAttentionSpec& spec) {
  Workspace workspace(nullptr);
  TakeTiles(spec, workspace);
  return workspace.used();
}

}  // namespace fla::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fla::cpu {

HWY_EXPORT(ChunkStepHead);
HWY_EXPORT(ChunkStepWorkspace);
HWY_EXPORT(ChunkPiecesHead);
HWY_EXPORT(ChunkPiecesWorkspace);

size_t ChunkStepWorkspace(const ChunkAttentionSpec& spec) {
  return HWY_DYNAMIC_DISPATCH(ChunkStepWorkspace)(spec);
}
void ChunkStepHead(const ChunkHeadTask& task) { HWY_DYNAMIC_DISPATCH(ChunkStepHead)(task); }
size_t ChunkPiecesWorkspace(const ChunkAttentionSpec& spec) {
  return HWY_DYNAMIC_DISPATCH(ChunkPiecesWorkspace)(spec);
}
void ChunkPiecesHead(const ChunkHeadTask& task) { HWY_DYNAMIC_DISPATCH(ChunkPiecesHead)(task); }

}  // namespace fla::cpu
#endif  // HWY_ONCE
