// From the ops of a recorded step to the program that step_program.cu runs.
#include <algorithm>
#include <bit>

#include "kernels/cuda/divide_up.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/step_program.h"
#include "kernels/fp8.h"

namespace fla::cuda {
namespace {

using Input = DecodeLinearArgs::Input;
using Output = DecodeLinearArgs::Output;

constexpr int kStaticBytes = 4 * 1024;  // of a block's shared memory, or less
// Slots of the ring, and how many of them are being filled at a time, at most: measured
// (DECODE.md).
struct RingPlan {
  int slots, in_flight, in_flight_ahead;

  // A warpgroup that has used a slot waits for the next but one. Where that is in the ring there
  // must not be one that is still on its way: copies land out of order, and the barrier's parity
  // would name the phase before last.
  int LeastSlots() const { return kProgramGroups + in_flight; }
};
constexpr RingPlan kRing = {kProgramMaxSlots, 6, 3};
constexpr RingPlan kRingOfFp8 = {10, 4, 2};

constexpr int kLayerOps = 6;  // as they are recorded

bool IsAligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool IsFp8(const DecodeLinearArgs& args) { return args.weight.dtype == DType::kF8E4M3; }

// Pieces of a linear's input.
int PiecesOf(const DecodeLinearArgs& args) {
  return DivideUp(args.x.cols, ProgramPiece(IsFp8(args)));
}
// What they take in shared memory: two bytes an element, and an e4m3 panel's factor.
int StagingBytes(const DecodeLinearArgs& args) {
  const int of_piece = 2 * ProgramPiece(IsFp8(args));
  return PiecesOf(args) *
         (of_piece + (IsFp8(args) ? kProgramPanels * static_cast<int>(sizeof(float)) : 0));
}

// Whether `part` lies in rows of `whole`, and if so at which column.
std::optional<int> ColumnOf(const Matrix& whole, const Matrix& part) {
  if (part.dtype != whole.dtype || part.stride != whole.stride) return {};
  const auto bytes = static_cast<const char*>(part.data) - static_cast<const char*>(whole.data);
  const auto column = bytes / static_cast<int64_t>(SizeOf(whole.dtype));
  if (bytes < 0 || column + part.cols > whole.cols) return {};
  return static_cast<int>(column);
}

bool IsLinear(const DecodeLinearArgs& args, Input input, Output output, DType out) {
  return args.input == input && args.output == output && args.out.dtype == out &&
         args.x.cols % (IsFp8(args) ? kFp8Run : 64) == 0 && args.out.cols % 2 == 0 &&
         IsAligned(args.weight.scales);
}

// A layer's ops, in the order in which they come.
struct LayerOps {
  const DecodeLinearArgs *in, *out, *gate_up, *down;
  const PrepareStepArgs* prepare;
  const StepRecurrence* recurrence;
};

std::optional<LayerOps> LayerAt(std::span<const StepOp> ops) {
  const auto linear = [](const StepOp& op) { return std::get_if<DecodeLinearArgs>(&op); };
  const LayerOps layer = {linear(ops[0]),
                          linear(ops[3]),
                          linear(ops[4]),
                          linear(ops[5]),
                          std::get_if<PrepareStepArgs>(&ops[1]),
                          std::get_if<StepRecurrence>(&ops[2])};
  if (layer.in == nullptr || layer.out == nullptr || layer.gate_up == nullptr ||
      layer.down == nullptr || layer.prepare == nullptr || layer.recurrence == nullptr) {
    return {};
  }
  return layer;
}

int64_t WeightBytes(std::span<const StepOp> ops) {
  int64_t bytes = 0;
  for (const StepOp& op : ops) {
    const auto* const linear = std::get_if<DecodeLinearArgs>(&op);
    if (linear == nullptr) continue;
    const Matrix& weight = linear->weight;
    bytes += weight.rows * weight.cols * static_cast<int64_t>(SizeOf(weight.dtype));
  }
  return bytes;
}

// The mixer of a layer, but for its exchanges; nothing where the kernel has no code for it.
std::optional<ProgramMixer> MixerOf(const LayerOps& layer) {
  const PrepareStepArgs& prepare = *layer.prepare;
  const RecurrenceParams& p = layer.recurrence->params;
  const Matrix& packed = layer.in->out;
  const int k = p.key_dim, v = p.value_dim;
  if (layer.recurrence->dtype != DType::kBF16 || p.bf16_state || p.cu_seqlens != nullptr) return {};
  if ((k != 64 && k != 128 && k != 256) || v % kProgramStateColumns != 0 ||
      !std::has_single_bit(static_cast<unsigned>(v)) || v > 512 ||
      p.heads * (v / kProgramStateColumns) > kProgramThreads) {
    return {};
  }
  if (prepare.head_k_dim != k || prepare.head_v_dim != v || prepare.width > 4) return {};
  if (p.q != prepare.q_out.data || p.k != prepare.k_out.data || p.v != prepare.v_out.data ||
      p.slots != prepare.slots || layer.out->x.data != p.out) {
    return {};
  }
  ProgramMixer mixer = {};
  mixer.prepare = prepare;
  mixer.recurrence = p;
  const auto words_of = [&](const Matrix& part, int& word) {
    const std::optional<int> column = ColumnOf(packed, part);
    if (!column || *column % 4 != 0) return false;  // pairs of words
    word = *column / 2;
    return true;
  };
  if (!words_of(prepare.q, mixer.q_word) || !words_of(prepare.k, mixer.k_word) ||
      !words_of(prepare.v, mixer.v_word)) {
    return {};
  }
  const bool reads_decay = p.decay == Decay::kPerToken || p.decay == Decay::kPerChannel;
  if (reads_decay) {
    const std::optional<int> column = ColumnOf(packed, prepare.decay.x);
    if (!column || p.log_decay != prepare.decay.out) return {};
    mixer.decay_column = *column;
    mixer.inverse_normalizer = 1.0f / prepare.decay.normalizer;
  }
  const auto takes_map = [](const Matrix& x, const LowRankMap& map) {
    const int64_t rank = x.cols;
    return rank % 8 == 0 && rank <= kProgramMaxRank && map.weight.cols == rank &&
           map.weight.dtype == DType::kBF16 && map.weight.stride % 8 == 0 &&
           IsAligned(map.weight.data);
  };
  if (prepare.decay_map.weight.present()) {
    if (p.decay != Decay::kPerChannel || mixer.decay_column % 4 != 0 ||
        !takes_map(prepare.decay.x, prepare.decay_map)) {
      return {};
    }
    mixer.decay_rank = static_cast<int>(prepare.decay.x.cols);
  }
  if (prepare.gate_out.present()) {
    if (layer.out->gate.data != prepare.gate_out.data ||
        !words_of(prepare.gate_x, mixer.gate_x_word) ||
        !takes_map(prepare.gate_x, prepare.gate_map)) {
      return {};
    }
    mixer.gate_rank = static_cast<int>(prepare.gate_x.cols);
  }
  if (prepare.width == 4 &&
      (!IsAligned(prepare.taps) || !IsAligned(prepare.state) || prepare.slot_stride % 4 != 0)) {
    return {};
  }
  const DecodeLinearArgs& out = *layer.out;
  mixer.norm_weight = out.normalize ? out.norm_weight : nullptr;
  if (mixer.norm_weight != nullptr && !IsAligned(mixer.norm_weight)) return {};
  mixer.gate_word = -1;
  const bool gate_is_packed = out.gate.present() && mixer.gate_rank == 0;
  if (gate_is_packed && !words_of(out.gate, mixer.gate_word)) return {};
  if (out.gate_activation != Activation::kSilu && out.gate_activation != Activation::kSigmoid) {
    return {};
  }
  mixer.silu_gate = out.gate_activation == Activation::kSilu;
  // Every block must have something that another waits for: no tile of columns without a use.
  const int64_t used = prepare.q.cols + prepare.k.cols + prepare.v.cols +
                       (gate_is_packed ? out.gate.cols : mixer.gate_rank) +
                       (reads_decay ? prepare.decay.x.cols : 0) +
                       (prepare.beta_out != nullptr ? prepare.beta.cols : 0);
  if (packed.cols >= used + kProgramTileRows || packed.cols % 4 != 0) return {};  // words in pairs
  if (prepare.beta_out != nullptr) {
    const std::optional<int> column = ColumnOf(packed, prepare.beta);
    if (!column || p.beta != prepare.beta_out) return {};
    mixer.beta_column = *column;
  }
  return mixer;
}

// The work of a mixer, a block's worth each.
std::vector<MixerItem> ItemsOf(const ProgramMixer& mixer) {
  const PrepareStepArgs& prepare = mixer.prepare;
  const RecurrenceParams& p = mixer.recurrence;
  const int q_columns = static_cast<int>(prepare.q.cols);
  const int k_columns = static_cast<int>(prepare.k.cols);
  // Decays of heads, as many of which as share a rate.
  const int decays = p.decay_heads / std::max(prepare.decay.heads, 1);
  std::vector<MixerItem> items;
  for (int head = 0; head < p.heads; ++head) {
    for (int slice = 0; slice < p.value_dim / kProgramStateColumns; ++slice) {
      MixerItem item = {.head = head, .slice = slice};
      const int q_head = head / p.q_group, k_head = head / p.k_group;
      const int v_column = head / p.v_group * p.value_dim + slice * kProgramStateColumns;
      item.q_word = mixer.q_word + q_head * p.key_dim / 2;
      item.k_word = mixer.k_word + k_head * p.key_dim / 2;
      item.v_word = mixer.v_word + v_column / 2;
      item.beta_column = mixer.beta_column + head;
      item.q_channel = q_head * p.key_dim;
      item.k_channel = q_columns + k_head * p.key_dim;
      item.v_channel = q_columns + k_columns + v_column;
      item.decay_column = head / p.decay_group;
      item.rate_head = item.decay_column / std::max(decays, 1);
      item.out_word = (head * p.value_dim + slice * kProgramStateColumns) / 2;
      items.push_back(item);
    }
  }
  return items;
}

bool IsLayer(const LayerOps& layer, const Matrix& residual) {
  const auto adds_to_residual = [&](const DecodeLinearArgs& args) {
    return args.out.data == residual.data && args.out.stride == residual.stride;
  };
  return IsLinear(*layer.in, Input::kNormed, Output::kStore, DType::kBF16) &&
         IsLinear(*layer.out, Input::kHeadsNormed, Output::kAdd, DType::kF32) &&
         IsLinear(*layer.gate_up, Input::kNormed, Output::kSwiGlu, DType::kBF16) &&
         IsLinear(*layer.down, Input::kPlain, Output::kAdd, DType::kF32) &&
         layer.in->x.data == residual.data && layer.gate_up->x.data == residual.data &&
         adds_to_residual(*layer.out) && adds_to_residual(*layer.down) &&
         layer.down->x.data == layer.gate_up->out.data &&
         layer.out->head_dim == layer.prepare->head_v_dim;
}

ProgramLinear LinearOf(const DecodeLinearArgs& args) {
  ProgramLinear linear = {};
  linear.output = args.output == Output::kSwiGlu  ? ProgramLinear::Output::kSwiGlu
                  : args.output == Output::kAdd   ? ProgramLinear::Output::kAdd
                  : args.out.dtype == DType::kF32 ? ProgramLinear::Output::kLogits
                                                  : ProgramLinear::Output::kStore;
  linear.in_pairs = static_cast<int>(args.x.cols) / 4;
  linear.out = static_cast<int>(args.out.cols);
  linear.pieces = PiecesOf(args);
  linear.scales = args.weight.scales;
  linear.tiles_at_once = kProgramSumSlots / linear.pieces;
  linear.eps = args.eps;
  linear.head_shift = -1;
  if (args.input == Input::kNormed) {
    linear.inverse_size = 1.0f / static_cast<float>(args.x.cols);
    linear.sum_lanes = 32;
  } else if (args.input == Input::kHeadsNormed && args.normalize) {
    linear.inverse_size = 1.0f / static_cast<float>(args.head_dim);
    linear.sum_lanes = args.head_dim / kProgramStateColumns;
    linear.head_shift = std::countr_zero(static_cast<unsigned>(args.head_dim / 4));
  }
  if (linear.output == ProgramLinear::Output::kLogits) {
    linear.logits = static_cast<float*>(args.out.data);
  }
  return linear;
}

// A linear's tiles, and shared among blocks.
int TilesOf(const DecodeLinearArgs& args) {
  const bool paired = args.output == Output::kSwiGlu;
  return DivideUp(args.out.cols, paired ? kProgramTileRows / 2 : kProgramTileRows);
}
bool ShareTiles(const DecodeLinearArgs& args, int blocks, ProgramLinear& linear,
                ProgramStream& stream) {
  if (args.x.rows != 1 || linear.tiles_at_once == 0) return false;
  linear.base = stream.base = TilesOf(args) / blocks;
  linear.rest = stream.rest = TilesOf(args) % blocks;
  const int tiles = linear.base + (linear.rest > 0 ? 1 : 0);
  if (std::min(tiles, linear.tiles_at_once) * 4 > kProgramThreads) return false;
  // A block holds its share of the residual while it adds up.
  return args.output != Output::kAdd ||
         tiles <= std::min(linear.tiles_at_once, kProgramResidualTiles);
}

// The streams of a linear, but for its share of tiles, and of a mixer.
ProgramStream StreamOf(const DecodeLinearArgs& args, int map) {
  const bool paired = args.output == Output::kSwiGlu;
  return {.map = map,
          .pieces = PiecesOf(args),
          .slot_bytes = kProgramSlotBytes,
          .piece_panels = kProgramPanels,
          .unit_rows = paired ? kProgramTileRows / 2 : kProgramTileRows};
}
ProgramStream StreamOf(const ProgramMixer& mixer, int map) {
  const int key_dim = mixer.recurrence.key_dim, rows = std::min(key_dim, kProgramStateRows);
  return {.map = map,
          .pieces = key_dim / rows,
          .slot_bytes = rows * kProgramStateColumns * static_cast<int>(sizeof(float)),
          .piece_rows = rows,
          .items = mixer.items,
          .unit_rows = key_dim};
}

// The vectors that a step's ops hand each other.
enum class Vector { kResidual, kPacked, kMixed, kInner, kLogits };

// A program that is being put together: its tables without the addresses of what its vectors are
// exchanged in.
struct Draft {
  int blocks = 0;
  std::vector<ProgramOp> ops;
  std::vector<std::pair<Vector, Vector>> vectors;  // that an op reads and writes
  std::vector<ProgramStream> streams;
  std::vector<TileMap> maps;
  std::vector<MixerItem> items;
  ProgramParams params = {};
  int64_t packed_columns = 0, mixed_columns = 0, inner_columns = 0;
};

bool AddLinear(Draft& draft, const DecodeLinearArgs& args, Vector from, Vector to) {
  ProgramOp op;
  op.linear = LinearOf(args);
  ProgramStream stream = StreamOf(args, static_cast<int>(draft.maps.size()));
  if (!ShareTiles(args, draft.blocks, op.linear, stream)) return false;
  if (args.input == Input::kNormed) {
    op.linear.sum_count = draft.blocks;
    // Whoever makes the residual multiplies it by the weights of the norm that reads it.
    (draft.ops.empty() ? draft.params.residual_norm : draft.ops.back().linear.next_norm) =
        args.norm_weight;
  } else if (op.linear.head_shift >= 0) {
    op.linear.sum_count = static_cast<int>(draft.items.size());
  }
  draft.params.fp8 |= IsFp8(args);
  draft.params.staging_bytes = std::max(draft.params.staging_bytes, StagingBytes(args));
  draft.ops.push_back(op);
  draft.vectors.emplace_back(from, to);
  draft.streams.push_back(stream);
  draft.maps.push_back(
      MakePanelsMap(args.weight, kProgramTileRows, kProgramPanels, args.output == Output::kSwiGlu));
  return true;
}

void AddMixer(Draft& draft, const ProgramMixer& mixer) {
  const RecurrenceParams& p = mixer.recurrence;
  ProgramOp op;
  op.kind = ProgramOp::Kind::kMixer;
  op.mixer = mixer;
  draft.ops.push_back(op);
  draft.vectors.emplace_back(Vector::kPacked, Vector::kMixed);
  draft.streams.push_back(StreamOf(mixer, static_cast<int>(draft.maps.size())));
  draft.maps.push_back(MakeFloatPanelMap(static_cast<float*>(p.state), p.value_dim,
                                         std::min(p.key_dim, kProgramStateRows)));
}

bool AddLayer(Draft& draft, const LayerOps& layer) {
  std::optional<ProgramMixer> mixer = MixerOf(layer);
  if (!mixer) return false;
  const RecurrenceParams& p = mixer->recurrence;
  const PrepareStepArgs& prepare = mixer->prepare;
  ProgramParams& params = draft.params;
  std::vector<MixerItem> items = ItemsOf(*mixer);
  if (draft.items.empty()) {
    params.state_slot = p.slots;
    params.key_dim = p.key_dim;
    params.heads = p.heads;
    draft.items = std::move(items);
  } else if (params.state_slot != p.slots || params.key_dim != p.key_dim ||
             params.heads != p.heads || items != draft.items) {
    return false;  // layers of different kinds
  }
  mixer->items = static_cast<int>(draft.items.size());
  draft.packed_columns = std::max(draft.packed_columns, layer.in->out.cols);
  draft.mixed_columns = std::max(draft.mixed_columns, layer.out->x.cols);
  draft.inner_columns = std::max(draft.inner_columns, layer.down->x.cols);

  if (!AddLinear(draft, *layer.in, Vector::kResidual, Vector::kPacked)) return false;
  draft.ops.back().linear.before_mixer = true;
  draft.ops.back().mixer = *mixer;
  AddMixer(draft, *mixer);
  if (!AddLinear(draft, *layer.out, Vector::kMixed, Vector::kResidual)) return false;
  if (prepare.width > 1) {
    const int64_t channels = prepare.q.cols + prepare.k.cols + prepare.v.cols;
    const int moved = DivideUp(channels, draft.blocks);
    if (moved > kProgramThreads) return false;
    draft.ops.back().linear.moved_channels = moved;
  }
  draft.ops.back().mixer = *mixer;
  return AddLinear(draft, *layer.gate_up, Vector::kResidual, Vector::kInner) &&
         AddLinear(draft, *layer.down, Vector::kInner, Vector::kResidual);
}

// The rest of the parameters, but for addresses.
bool Size(Draft& draft, int residual_columns) {
  ProgramParams& params = draft.params;
  const int tiles = DivideUp(residual_columns, kProgramTileRows);
  params.residual_columns = residual_columns;
  params.residual_base = tiles / draft.blocks;
  params.residual_rest = tiles % draft.blocks;
  params.count = static_cast<int>(draft.ops.size());
  params.items = static_cast<int>(draft.items.size());
  const RingPlan ring = params.fp8 ? kRingOfFp8 : kRing;
  params.slots = std::min(
      ring.slots, (MaxSharedBytes() - kStaticBytes - ProgramFixedBytes(params.staging_bytes)) /
                      kProgramSlotBytes);
  params.in_flight = ring.in_flight;
  params.in_flight_ahead = ring.in_flight_ahead;
  return params.slots >= ring.LeastSlots();
}

// Puts arrays one after the other into one piece of device memory.
class Layout {
 public:
  size_t Take(size_t bytes) {
    const size_t begin = size_;
    size_ += (bytes + 255) / 256 * 256;
    return begin;
  }
  size_t size() const { return size_; }

 private:
  size_t size_ = 0;
};

// A place for all that a draft has; gives its ops and parameters their addresses.
Buffer Place(Draft& draft, Device device) {
  ProgramParams& params = draft.params;
  Layout layout;
  const auto bytes_of = [](const auto& table) { return table.size() * sizeof(table[0]); };
  const size_t ops = layout.Take(bytes_of(draft.ops)), maps = layout.Take(bytes_of(draft.maps));
  const size_t streams = layout.Take(bytes_of(draft.streams));
  const size_t items = layout.Take(bytes_of(draft.items));
  const size_t launches = layout.Take(sizeof(uint64_t));
  const auto exchange_of = [&](int64_t words) { return layout.Take(words * sizeof(uint64_t)); };
  const size_t words[] = {
      exchange_of(params.residual_columns / 2), exchange_of(draft.packed_columns / 2),
      exchange_of(draft.mixed_columns / 2), exchange_of(draft.inner_columns / 2)};
  const size_t residual_sums = exchange_of(2 * draft.blocks);
  const size_t mixed_sums = exchange_of(2 * params.items);
  Buffer memory(device, layout.size());
  char* const begin = memory.as<char>();
  const auto exchange = [begin](size_t at) { return reinterpret_cast<uint64_t*>(begin + at); };
  const auto words_of = [&](Vector vector) {
    return vector == Vector::kLogits ? nullptr : exchange(words[static_cast<int>(vector)]);
  };
  params.residual_words = words_of(Vector::kResidual);
  params.residual_sums = exchange(residual_sums);
  params.ops = reinterpret_cast<const ProgramOp*>(begin + ops);
  params.streams = reinterpret_cast<const ProgramStream*>(begin + streams);
  params.maps = reinterpret_cast<const TileMap*>(begin + maps);
  params.plan = reinterpret_cast<const MixerItem*>(begin + items);
  params.launches = exchange(launches);
  for (size_t i = 0; i < draft.ops.size(); ++i) {
    ProgramOp& op = draft.ops[i];
    const auto [from, to] = draft.vectors[i];
    op.from = words_of(from);
    op.to = words_of(to);
    op.linear.sums = exchange(from == Vector::kMixed ? mixed_sums : residual_sums);
    op.linear.next_sums = params.residual_sums;
    op.mixer.sums = exchange(mixed_sums);
    op.mixer.packed = words_of(Vector::kPacked);
    op.mixer.plan = params.plan;
  }
  return memory;
}

}  // namespace

std::optional<StepProgram> StepProgram::Compile(std::span<const StepOp> ops, Device device,
                                                int multiprocessors, int64_t least_bytes) {
  if (ops.size() < kLayerOps + 1 || ops.size() % kLayerOps != 1) return {};
  const auto* const head = std::get_if<DecodeLinearArgs>(&ops.back());
  if (head == nullptr || !IsLinear(*head, Input::kNormed, Output::kStore, DType::kF32)) return {};
  const Matrix& residual = head->x;
  if (residual.rows != 1 || WeightBytes(ops) < least_bytes) return {};

  Draft draft;
  draft.blocks = std::min(multiprocessors, kProgramThreads);
  for (const StepOp& op : ops) {  // every block has tiles of every linear
    const auto* const linear = std::get_if<DecodeLinearArgs>(&op);
    if (linear != nullptr) draft.blocks = std::min(draft.blocks, TilesOf(*linear));
  }
  for (size_t i = 0; i + 1 < ops.size(); i += kLayerOps) {
    const std::optional<LayerOps> layer = LayerAt(ops.subspan(i, kLayerOps));
    if (!layer || !IsLayer(*layer, residual) || !AddLayer(draft, *layer)) return {};
  }
  if (!AddLinear(draft, *head, Vector::kResidual, Vector::kLogits) ||
      !Size(draft, static_cast<int>(residual.cols))) {
    return {};
  }
  draft.params.residual = static_cast<float*>(residual.data);

  StepProgram program;
  program.memory_ = Place(draft, device);
  program.blocks_ = draft.blocks;
  program.ops_ = std::move(draft.ops);
  program.streams_ = std::move(draft.streams);
  program.maps_ = std::move(draft.maps);
  program.items_ = std::move(draft.items);
  program.params_ = draft.params;
  return program;
}

void StepProgram::Upload(cudaStream_t stream) const {
  Check(cudaMemsetAsync(memory_.data(), 0, memory_.size(), stream), "cudaMemsetAsync");
  const auto copy = [stream](const void* target, const auto& source) {
    Check(cudaMemcpyAsync(const_cast<void*>(target), source.data(),
                          source.size() * sizeof(source[0]), cudaMemcpyHostToDevice, stream),
          "cudaMemcpyAsync of a step's program");
  };
  copy(params_.ops, ops_);
  copy(params_.streams, streams_);
  copy(params_.maps, maps_);
  copy(params_.plan, items_);
}

void StepProgram::Launch(cudaStream_t stream) const { LaunchStepProgram(params_, blocks_, stream); }

}  // namespace fla::cuda
