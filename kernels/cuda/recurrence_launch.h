// The recurrence's kernels on a bare CUDA stream: what recurrence.cu forwards to and what the
// benchmark times. No call here allocates or synchronises.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/errors.h"
#include "kernels/recurrence.h"

namespace fla::cuda {

// Tokens in a chunk: one tensor-core tile. Small enough that a decay product inside a chunk is four
// levels of halving, large enough for the state to be read once in 16 tokens.
inline constexpr int kChunk = 16;

// Tokens in a chunk of the wide kernels (Hopper): one row of warpgroup products.
inline constexpr int kWideChunk = 64;

// Panels of 64 channels that the wide kernels are compiled for: key_dim or more.
constexpr int WidePanels(int key_dim) { return key_dim <= 64 ? 1 : key_dim <= 128 ? 2 : 4; }

// RecurrenceArgs as the kernels take it. x_group = H / x_heads.
struct RecurrenceParams {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  int64_t q_stride, k_stride, v_stride, out_stride;  // elements between rows
  const float* log_decay;
  const float* beta;
  void* state;
  const int* slots;
  const int* cu_seqlens;  // null: sequence n is token n
  int num_sequences, heads, key_dim, value_dim;
  int q_group, k_group, v_group, decay_group, decay_heads;
  float scale;
  Decay decay;
  bool bf16_state;
  bool aligned_rows;  // every row of q, k and v starts on 16 bytes
  bool paired_out;    // every row of out starts on a pair of elements
  bool aligned_out;   // every row of out starts on 16 bytes
};

// Only tokens [begin, end) of a prefill: bounds the workspace. A sequence that reaches over the end
// goes on in the next window from its state.
struct TokenWindow {
  int begin, end;
};

// Pieces of `tokens` tokens, chunks or segments, have slots: piece i of sequence n has slot
// (n's first token - window begin) / tokens + n + i. No two share one, and no prefix sum is needed.
// How many there are in a window, some of which no piece has:
constexpr int SlotsOfWindow(TokenWindow window, int num_sequences, int tokens) {
  return (window.end - window.begin) / tokens + num_sequences;
}
// Those of them that a call of the first kernel is for.
struct ChunkSlots {
  int begin, end;
};

// What the token-parallel kernel leaves for the scan: one record of `bytes` per (chunk slot, head),
// laid out as the scan wants it in shared memory. Byte offsets in a record; absent parts are empty.
// A bf16 matrix [C, cols] is stored as [cols / 8, C, 8]: the eight rows that an ldmatrix reads are
// then 128 neighbouring bytes.
struct ChunkRecord {
  static constexpr int kColumns = 16 * kChunk;  // bytes of 8 columns of a matrix
  int attention;  // P [C, C] bf16: P[i, j] = scale q_i^T decay(j -> i) k_j for j <= i, else 0
  int transform;  // T [C, C] bf16, kDelta: inverse of (I + strictly lower part of beta K K^T
                  // decay), columns times beta
  int decay;      // scalar decay: f32 [2, C], from the chunk's start to i, from i to its end;
                  // per channel: f32 [max_k], over the whole chunk
  int query;      // per channel: bf16 [C, max_k], scale q_i decay(start -> i)
  int key_end;    // per channel: bf16 [C, max_k], k_i decay(i -> end)
  int key_start;  // per channel and kDelta: bf16 [C, max_k], k_i decay(start -> i)
  int bytes;
  int max_k;  // K rounded up to what the scan is compiled for; channels behind K are 0
};

// The head size that the scan is compiled for: K or more.
constexpr int MaxKeyDim(int key_dim) { return key_dim <= 64 ? 64 : key_dim <= 128 ? 128 : 256; }

constexpr ChunkRecord MakeChunkRecord(int max_k, bool delta, bool channel) {
  const int triangle = 2 * kChunk * kChunk, matrix = channel ? 2 * kChunk * max_k : 0;
  ChunkRecord record = {};
  record.max_k = max_k;
  record.transform = triangle;
  record.decay = record.transform + (delta ? triangle : 0);
  record.query = record.decay + (channel ? 4 * max_k : 8 * kChunk);
  record.key_end = record.query + matrix;
  record.key_start = record.key_end + matrix;
  record.bytes = record.key_start + (delta ? matrix : 0);
  return record;
}
ChunkRecord ChunkRecordOf(const RecurrenceSpec& spec);

// The same for a wide chunk, whose decay is scalar: P and T, triangles as wide_panel.cuh says, then
// the decays. Additive: nothing, the scan makes P itself.
struct WideRecord {
  int attention, transform, decay;  // offsets
  int bytes;
};
constexpr WideRecord MakeWideRecord(bool delta) {
  if (!delta) return {};
  const int triangle = 2 * kWideChunk * kWideChunk * 3 / 4;
  return {0, triangle, 2 * triangle, 2 * triangle + 4 * 2 * kWideChunk};
}
WideRecord WideRecordOf(const RecurrenceSpec& spec);
int64_t RecordBytes(const RecurrenceSpec& spec, bool wide);  // of either

// Where the segments of a prefill window keep what the scan's two passes tell each other: see
// scan_segment.cuh. [slots, H] f32 of each; what a rule has no use for is null.
struct SegmentWorkspace {
  int tokens;     // of a segment, a multiple of the chunk; 0: sequences are not cut
  float* states;  // [K, V]: what a segment leaves of no state, then the state that it starts from
  float* maps;    // kDelta, [K, K]: entry [j, i] is what channel j before makes of channel i behind
  float* decays;  // kAdditive with decay, [K] or, scalar, [1]: over the whole segment
};

// A prefill window's workspace.
struct ChunkWorkspace {
  char* records;
  bool beside_scan;  // the first kernel begins beside the scan before it, which reads nothing that
                     // it writes, and ends with it: an extra last block of its grid does nothing
                     // but wait for that
  SegmentWorkspace segments;
};

// The records of a prefill by one kernel (channel_prefill.cu), which never are all there, and what
// its blocks tell each other.
struct RecordRing {
  static constexpr int kApart = 32;  // ints between numbers that many warps look at
  int tracks;                        // sequences N t / tracks .. N (t + 1) / tracks - 1 are track t
  int places;     // of a track and head: the record of its chunk i has place i % places
  int readers;    // blocks of columns of a head, each of which reads all its records
  int max_slots;  // of chunks of a track
  // Zero before the kernel:
  int* taken;    // chunks of tracks and heads that warps have taken, to make their records
  int* emptied;  // [tracks, H, readers, kApart]: chunks whose records have been read
  int* filled;   // [tracks, H, places]: 1 + the chunk whose record is there
};

// kLocal: what every segment does to a state, no outputs. kFinal: outputs, and states to the pool;
// the only pass where sequences are not cut.
enum class ScanPass { kLocal, kFinal };

// Whether every row starts on 16 bytes.
bool Aligned(const Matrix& m);

// Of the current GPU: multiprocessors, and the most shared memory that a block can have.
int Multiprocessors();
bool IsHopper();
int MaxSharedBytes();

// How a prefill is cut up. PlanPrefill's choice is right for any shape; other values are too,
// within the limits given, only slower.
struct PrefillPlan {
  int window_tokens;     // a multiple of kChunk
  int slice_width;       // tiles of 16 columns of a slice: 1 or, with the fewest key_parts only, 2
  int key_parts;         // warps that share a slice's state: max_k / 64 or half of that, at least 1
  int slices_per_block;  // of the scan: a power of two, slice_width * key_parts * slices_per_block
                         // <= 8; wide: 1 or 2
  bool wide;             // chunks of kWideChunk tokens
  bool ahead;  // the first kernel of a window runs beside the scan of the window before (sm_90), of
               // cut sequences beside its local pass, so that the workspace has two of them
  int segment_tokens;  // a multiple of the chunk: the scan cuts longer sequences into segments of
                       // so many tokens, with slice_width 2; 0: it does not
  int tracks;  // decay per channel on Hopper, where CanFuse: one kernel instead of two and no
               // windows, so many sequences side by side; of the above slice_width counts alone.
               // 0: not so
  int record_places;  // of a track and head, at least 1
  bool late;  // of one sequence that is cut, not ahead: the last segment's chunks, which the local
              // pass does not walk, are made beside it (sm_90)
  bool beside_first;   // of one window, not cut: its scan begins beside its first kernel (sm_90)
  bool part_channels;  // decay per channel: a chunk and head is made by warps that share its
                       // channels
};
// Blocks of such warps on a multiprocessor, at most.
inline constexpr int kMaxPartBlocks = 2;
// `hopper`: compute capability 9.0, which the wide kernels are made for. `may_cut`: sequences may
// be cut into segments.
PrefillPlan PlanPrefill(const RecurrenceArgs& args, int multiprocessors, bool hopper,
                        bool may_cut = true);
// Decides beside_first and part_channels, by the others: what a short prompt's kernels do with
// multiprocessors that they leave idle. For whom changes what PlanPrefill chose.
void PlanShortPrompt(const RecurrenceArgs& args, int multiprocessors, bool hopper,
                     PrefillPlan& plan);
// Whether there is one kernel for such a prefill.
inline constexpr int kMaxFusedSequences = 512;
bool CanFuse(const RecurrenceArgs& args);
// Places that a plan gives the records of a track and head.
inline constexpr int kRecordPlaces = 32;
// Blocks of columns of a sequence in it, one a multiprocessor, and how many tracks there is room
// for.
int FusedBlocks(const RecurrenceArgs& args, int slice_width);
int MostTracks(const RecurrenceArgs& args, int slice_width, int multiprocessors);
// Slots of chunks that track `track` of `tracks` has (RecordRing).
int SlotsOfTrack(const RecurrenceArgs& args, int track, int tracks);
// Whether the scan of one prompt's bf16 activations on Hopper leaves idle more of the
// multiprocessors than the half that late columns take (prefill.h).
bool ScanLeavesRoom(const RecurrenceSpec& spec, int tokens, int multiprocessors);
// Whether there are wide kernels for these heads.
bool HasWideKernels(const RecurrenceSpec& spec);

// Whether the first kernel of a prefill makes what args.projections say. Otherwise ops have to.
bool HasProjectedPrepare(const RecurrenceArgs& args);

// Throws std::invalid_argument, naming the field, for what has no kernel.
RecurrenceParams ParamsOf(const RecurrenceArgs& args);

// Columns of a state that a block of TileStepKernel (step_tile.cu) has, and how many of its blocks
// share a multiprocessor's memory: tiles with sums, inputs and some more. max_k: MaxKeyDim.
inline constexpr int kStepTileColumns = 64;
constexpr int StepTilesAtOnce(int max_k, int state_bytes) {
  return 220 * 1024 / (kStepTileColumns * max_k * state_bytes + 24 * max_k + 1536);
}

// Which kernel takes the tokens of every sequence one after the other. PlanStep's choice is right
// for any shape; so is any other within the limits given, only slower.
enum class StepKernel : uint8_t {
  kAny,    // RecurrentKernel (step.cuh)
  kLoads,  // LoadStepKernel (step_load.cuh), where HasLoadStep
  kTiles,  // TileStepKernel (step_tile.cu), where HasTileStep
};
struct StepPlan {
  StepKernel kernel;
  int columns;  // of a state that a block has. kTiles: kStepTileColumns; else 32, 16 where K is a
                // multiple of 32, or, kLoads and K up to 128, 64
  bool many;    // kLoads: states that the L2 cache has no room for
};
// `hopper`: compute capability 9.0.
StepPlan PlanStep(const RecurrenceParams& params, DType dtype, int multiprocessors, bool hopper);
bool HasLoadStep(const RecurrenceParams& params, DType dtype);
// LoadStepKernel's plan for more states than the L2 cache has room for.
StepPlan PlanManyLoads(const RecurrenceParams& params);
// On Hopper.
bool HasTileStep(const RecurrenceParams& params, DType dtype);

// Runs every token of every sequence one after the other: decode (cu_seqlens null) and, for f32
// activations, prefill. `chained`: see LaunchChained.
void LaunchRecurrent(const RecurrenceParams& params, DType dtype, const StepPlan& plan,
                     cudaStream_t stream, bool chained = false);

size_t PrefillScratchBytes(const RecurrenceArgs& args, const PrefillPlan& plan);
void LaunchChunkedPrefill(const RecurrenceArgs& args, const PrefillPlan& plan, void* scratch,
                          cudaStream_t stream);

// The kernels of a prefill window. Rows of q, k, v and of gates per channel are 16-byte aligned,
// bf16. `part_channels`, the plan's, is of no effect where there are no projections.
void LaunchChunkPrepare(const RecurrenceParams& params, const RecurrenceProjections& from,
                        Update update, const ChunkRecord& record, TokenWindow window,
                        ChunkSlots slots, const ChunkWorkspace& workspace, bool part_channels,
                        cudaStream_t stream);
// Both as one kernel, of a plan that says so.
void LaunchChannelPrefill(const RecurrenceParams& params, const RecurrenceProjections& from,
                          Update update, const ChunkWorkspace& workspace, const RecordRing& ring,
                          int slice_width, cudaStream_t stream);
// Delta rule only.
void LaunchWidePrepare(const RecurrenceParams& params, const RecurrenceProjections& from,
                       TokenWindow window, ChunkSlots slots, const ChunkWorkspace& workspace,
                       cudaStream_t stream);
// Additive rule with decay only, of a plan with segments: the decay over each of them.
void LaunchSegmentDecays(const RecurrenceParams& params, const ChunkRecord& record,
                         TokenWindow window, const ChunkWorkspace& workspace, cudaStream_t stream);
// Between the two passes of the scan: puts the segments of a sequence together.
void LaunchSegmentCombine(const RecurrenceParams& params, Update update, TokenWindow window,
                          const SegmentWorkspace& segments, cudaStream_t stream);

// A pass of the scan, by chunks of kChunk or kWideChunk tokens.
struct ScanLaunch {
  const PrefillPlan& plan;  // beside_first: the first kernel began when all before it had ended, so
                            // that nothing but its records is waited for
  TokenWindow window;
  const ChunkWorkspace& workspace;
  cudaStream_t stream;
};
template <bool kDelta, ScanPass kPass>
void LaunchChunkScan(const RecurrenceParams& params, const ScanLaunch& launch);
template <bool kDelta, ScanPass kPass>
void LaunchWideScan(const RecurrenceParams& params, const ScanLaunch& launch);

}  // namespace fla::cuda
