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

// Weights come in tiles of 8 rows (SwiGLU: 4 gates and their 4 ups) and pieces of 1024 inputs, a
// piece of a tile in a slot of shared memory; states in tiles of 32 columns and up to 128 rows.
inline constexpr int kProgramTileRows = 8;
inline constexpr int kProgramPiece = 1024;
inline constexpr int kProgramStateRows = 128;
inline constexpr int kProgramStateColumns = 32;
// Of weights: a step that reads less is faster as kernels of its own, which begin early.
inline constexpr int64_t kLeastProgramBytes = int64_t{1} << 30;

inline constexpr int kProgramThreads = 256;  // of a block that compute
inline constexpr int kProgramMaxSlots = 13;
inline constexpr int kProgramSumSlots = 48;  // whose sums a block has room for

// What the copying warp needs of an op: of a mixer if it has items.
struct alignas(16) ProgramStream {
  int map = 0;
  int pieces = 0;  // slots of a tile, or of a mixer's state tile
  int ups = 0;     // SwiGLU: the first row of the ups, else 0
  int base = 0;    // tiles of every block
  int rest = 0;    // so many of the first blocks have one more
  int items = 0, key_dim = 0;
  int unused[2] = {};
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

// Linear (kernels/decode.h). A kHeadsNormed one also moves on the states of the convolution that
// the mixer before it read, which no block reads any more by then.
struct ProgramLinear {
  DecodeLinearArgs args;
  int base, rest;  // tiles of a block, as in ProgramStream
  int pieces;
  int tiles_at_once;     // before their sums are added up
  int heads;             // kHeadsNormed
  const uint64_t* gate;  // kHeadsNormed: its words in the packed projection, or null
  bool before_mixer;
};

// PrepareStep and RecurrentStep. The words are those of the packed projection.
struct ProgramMixer {
  PrepareStepArgs prepare;
  RecurrenceParams recurrence;
  const uint64_t* packed;
  const MixerItem* plan;
  int items;
  int q_word, k_word, v_word;
  int decay_column, beta_column;  // of single values
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
  int slots;              // of the ring in shared memory
  int staging_bytes;      // of shared memory for a linear's input
  const int* state_slot;  // [1]
  float* residual;
  int residual_columns, residual_base, residual_rest;  // tiles of 8 columns
  uint64_t* residual_words;
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

// Shared memory of a block besides the ring, bytes of which `staging_bytes` are for the input.
int ProgramFixedBytes(int staging_bytes);
int ProgramSlotBytes();
// The least that staging_bytes may be.
int ProgramMixerBytes();
void LaunchStepProgram(const ProgramParams& params, int blocks, cudaStream_t stream);

}  // namespace fla::cuda
