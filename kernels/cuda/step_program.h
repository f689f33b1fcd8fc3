// A decode step of one row as one kernel, from the first projection to the logits: what
// step_program.cu runs, and how it is put together from the ops of a recorded step.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "kernels/cuda/recurrence_launch.h"
#include "kernels/cuda/tile_map.h"
#include "kernels/decode.h"
#include "kernels/device.h"

namespace fla::cuda {

// An op of a step before anybody knows whether the step will be a program.
struct StepRecurrence {
  RecurrenceParams params;
  DType dtype;
  StepPlan plan;
};
using StepOp = std::variant<DecodeLinearArgs, PrepareStepArgs, StepRecurrence>;

// Weights come in tiles of 8 rows (SwiGLU: 4 gates and their 4 ups) and pieces of 1024 inputs, 2048
// where they are e4m3: a piece of a tile in a slot of shared memory, as 16 panels of 128 bytes of
// each row. States come in tiles of 32 columns and up to 128 rows.
inline constexpr int kProgramTileRows = 8;
inline constexpr int kProgramPanels = 16;
inline constexpr int kProgramPanelBytes = 128;
constexpr int ProgramPiece(bool fp8) { return kProgramPanels * kProgramPanelBytes / (fp8 ? 1 : 2); }
inline constexpr int kProgramStateRows = 128;
inline constexpr int kProgramStateColumns = 32;
// Of weights: a step that reads less is faster as kernels of its own, which begin early.
inline constexpr int64_t kLeastProgramBytes = int64_t{1} << 30;

inline constexpr int kProgramThreads = 256;  // of a block that compute: two warpgroups
inline constexpr int kProgramGroups = 2;
inline constexpr int kProgramSlotBytes = 16 * 1024;
inline constexpr int kProgramMaxSlots = 13;
inline constexpr int kProgramSumSlots = 48;      // whose sums a block has room for
inline constexpr int kProgramMaxRank = 128;      // of the maps of decays and gates
inline constexpr int kProgramResidualTiles = 8;  // of a block, at most: a warp has them

// What the copying warp needs of an op: units, tiles of a linear or items of a mixer, of so many
// slots, each a tile of a map of MakePanelsMap or its like.
struct alignas(16) ProgramStream {
  int map = 0;
  int pieces = 0;                        // slots of a unit
  int slot_bytes = 0;                    // what a copy brings
  int piece_rows = 0, piece_panels = 0;  // from a piece to the next
  int items = 0;                         // of a mixer; of a linear 0
  int base = 0;                          // tiles of every block
  int rest = 0;                          // so many of the last blocks have one more
  int unit_rows = 0;                     // from a tile to the next, or of a head's state
  int unused[3] = {};
};

// A block's work in a mixer: 32 columns of a head, and where in the packed projection (words)
// and among the convolution's channels their inputs are.
struct alignas(16) MixerItem {
  int head = 0, slice = 0;
  int q_word = 0, k_word = 0, v_word = 0, beta_column = 0;
  int q_channel = 0, k_channel = 0, v_channel = 0;
  int decay_column = 0, rate_head = 0;  // among the decay's own
  int out_word = 0;

  friend bool operator==(const MixerItem&, const MixerItem&) = default;
};

// Linear (kernels/decode.h) of a vector of bf16 pairs, a pair a word. What its norm wants to know
// of the whole vector are sums of squares, parts of which come with it; what it multiplies every
// element by is in the words already.
struct ProgramLinear {
  enum class Output : int { kStore, kAdd, kSwiGlu, kLogits };
  Output output;
  int in_pairs;  // of words
  int out;       // columns
  int pieces;
  const float* scales;   // of the weight's rows where they are e4m3, else null
  int base, rest;        // tiles of a block, as in ProgramStream
  int tiles_at_once;     // before their sums are added up
  const uint64_t* sums;  // pairs of a word and 0
  int sum_count;         // 0: no norm
  int sum_lanes;         // so many neighbours belong together, a power of two up to 32
  int head_shift;        // a head has so many pairs of words, as a power of 2; -1: one norm for all
  float inverse_size;    // of what is normalised
  float eps;
  const float* next_norm;  // kAdd: [out] of the norm that reads the residual next
  uint64_t* next_sums;     // and its sums
  float* logits;           // kLogits
  // What it does for the mixer's sake: before it, fetch what that will read; behind it, move on the
  // states of the convolution, so many channels a block, which no block reads any more by then.
  bool before_mixer;
  int moved_channels;
};

// PrepareStep, RecurrentStep and of OutputNorm what an element is multiplied by. The words are
// those of the packed projection.
struct ProgramMixer {
  PrepareStepArgs prepare;
  RecurrenceParams recurrence;
  const uint64_t* packed;
  const MixerItem* plan;
  int items;
  int q_word, k_word, v_word;
  int decay_column, beta_column;  // of single values; of a map's input
  int decay_rank;                 // of the decay's map; 0: it has none
  float inverse_normalizer;
  int gate_word;               // of the output gate, or -1
  int gate_x_word, gate_rank;  // of its map's input; 0: it has none
  bool silu_gate;              // else a sigmoid
  const float* norm_weight;    // of OutputNorm [V], or null
  uint64_t* sums;              // of an item's outputs' squares
};

struct alignas(16) ProgramOp {
  enum class Kind : int { kLinear, kMixer };
  Kind kind = Kind::kLinear;
  const uint64_t* from = nullptr;  // the words (exchange.cuh) that it reads
  uint64_t* to = nullptr;          // and writes; of the logits null
  ProgramLinear linear = {};
  ProgramMixer mixer = {};
};

struct ProgramParams {
  const ProgramOp* ops;
  const ProgramStream* streams;
  const TileMap* maps;
  int count;
  int key_dim;            // of all mixers
  int heads;              // of their states
  const MixerItem* plan;  // of all mixers
  int items;
  bool fp8;               // there are weights of e4m3
  int slots;              // of the ring in shared memory
  int in_flight;          // of an op's slots that are being filled while it is multiplied, at most
  int in_flight_ahead;    // of slots for later ops likewise
  int staging_bytes;      // of shared memory for a linear's input
  const int* state_slot;  // [1]
  float* residual;
  int residual_columns, residual_base, residual_rest;  // tiles of 8 columns
  const float* residual_norm;                          // of the first linear
  uint64_t* residual_words;
  uint64_t* residual_sums;
  uint64_t* launches;  // so far
};

// A program in device memory; a recorded graph that launches it keeps it.
class StepProgram {
 public:
  // Null where the ops are no step that the kernel knows: layers of DecodeLinear, PrepareStep,
  // RecurrentStep and three times DecodeLinear, then the logits, each reading what the one before
  // wrote. Allocates; Upload must follow before the first launch.
  static std::optional<StepProgram> Compile(std::span<const StepOp> ops, Device device,
                                            int multiprocessors,
                                            int64_t least_bytes = kLeastProgramBytes);

  void Upload(cudaStream_t stream) const;
  void Launch(cudaStream_t stream) const;

 private:
  int blocks_ = 0;
  std::vector<ProgramOp> ops_;
  std::vector<ProgramStream> streams_;
  std::vector<TileMap> maps_;
  std::vector<MixerItem> items_;
  ProgramParams params_ = {};
  Buffer memory_;
};

// Shared memory of a block besides the ring, bytes of which `staging_bytes` are for the input of a
// linear.
int ProgramFixedBytes(int staging_bytes);
void LaunchStepProgram(const ProgramParams& params, int blocks, cudaStream_t stream);

}  // namespace fla::cuda
