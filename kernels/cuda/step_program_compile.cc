// From the ops of a recorded step to the program that step_program.cu runs.
#include <algorithm>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/step_program.h"

namespace fla::cuda {
namespace {

using Input = DecodeLinearArgs::Input;
using Output = DecodeLinearArgs::Output;

constexpr int kStaticBytes = 3 * 1024;  // of a block's shared memory, or less
constexpr int kMinSlots = 6;

int DivideUp(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

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
         args.x.cols % 64 == 0 && args.out.cols % 2 == 0;
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
  if ((k != 64 && k != 128 && k != 256) || v % kProgramStateColumns != 0 || v > 512) return {};
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
    if (!column || *column % 2 != 0) return false;
    word = *column / 2;
    return true;
  };
  if (!words_of(prepare.q, mixer.q_word) || !words_of(prepare.k, mixer.k_word) ||
      !words_of(prepare.v, mixer.v_word)) {
    return {};
  }
  if (prepare.gate_out.present()) return {};
  if (p.decay == Decay::kPerChannel) return {};  // no faster than kernels one by one
  if (p.decay == Decay::kPerToken) {
    const std::optional<int> column = ColumnOf(packed, prepare.decay.x);
    if (!column || p.log_decay != prepare.decay.out || prepare.decay_map.weight.present())
      return {};
    mixer.decay_column = *column;
  }
  // Every block must have something that another waits for: no tile of columns without a use.
  const int64_t used = prepare.q.cols + prepare.k.cols + prepare.v.cols + layer.out->gate.cols +
                       (p.decay == Decay::kPerToken ? prepare.decay.x.cols : 0) +
                       (prepare.beta_out != nullptr ? prepare.beta.cols : 0);
  if (packed.cols >= used + kProgramTileRows) return {};
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
  const int channels_of_rate = p.decay == Decay::kPerToken
                                   ? static_cast<int>(prepare.decay.x.cols) / prepare.decay.heads
                                   : 1;
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
      item.rate_head = item.decay_column / channels_of_rate;
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

}  // namespace

std::optional<StepProgram> StepProgram::Compile(std::span<const StepOp> ops, Device device,
                                                int multiprocessors, int64_t least_bytes) {
  constexpr size_t kOpsOfLayer = 6;
  if (ops.size() < kOpsOfLayer + 1 || ops.size() % kOpsOfLayer != 1) return {};
  const auto* const head = std::get_if<DecodeLinearArgs>(&ops.back());
  if (head == nullptr || !IsLinear(*head, Input::kNormed, Output::kStore, DType::kF32)) return {};

  StepProgram program;
  ProgramParams& params = program.params_;
  const Matrix& residual_row = head->x;
  if (residual_row.rows != 1 || WeightBytes(ops) < least_bytes) return {};
  params.residual = static_cast<float*>(residual_row.data);
  params.residual_columns = static_cast<int>(residual_row.cols);
  int64_t packed_columns = 0, mixed_columns = 0, inner_columns = 0;
  int staging = ProgramMixerBytes(), fewest_tiles = multiprocessors;
  std::vector<int> gate_words;  // of every layer's output gate among its words, or -1
  const auto add_linear = [&](const DecodeLinearArgs& args) -> ProgramLinear& {
    const bool pairs = args.output == Output::kSwiGlu;
    const int out = static_cast<int>(args.out.cols);
    const int rows = pairs ? kProgramTileRows / 2 : kProgramTileRows;
    ProgramOp op;
    op.linear.args = args;
    op.linear.pieces = DivideUp(args.x.cols, kProgramPiece);
    op.linear.tiles_at_once = kProgramSumSlots / op.linear.pieces;
    op.linear.base = DivideUp(out, rows);  // of all blocks, until their number is known
    fewest_tiles = std::min(fewest_tiles, op.linear.base);
    staging = std::max(staging, op.linear.pieces * kProgramPiece * 2);
    program.streams_.push_back({.map = static_cast<int>(program.maps_.size()),
                                .pieces = op.linear.pieces,
                                .ups = pairs ? out : 0});
    program.maps_.push_back(MakePanelsMap(args.weight, rows, kProgramPiece / 64));
    program.ops_.push_back(op);
    return program.ops_.back().linear;
  };
  for (size_t i = 0; i + 1 < ops.size(); i += kOpsOfLayer) {
    const std::optional<LayerOps> layer = LayerAt(ops.subspan(i, kOpsOfLayer));
    if (!layer || !IsLayer(*layer, residual_row)) return {};
    std::optional<ProgramMixer> mixer = MixerOf(*layer);
    if (!mixer) return {};
    const RecurrenceParams& p = mixer->recurrence;
    std::vector<MixerItem> items = ItemsOf(*mixer);
    if (program.items_.empty()) {
      params.state_slot = p.slots;
      params.key_dim = p.key_dim;
      params.heads = p.heads;
      program.items_ = std::move(items);
    } else if (params.state_slot != p.slots || params.key_dim != p.key_dim ||
               params.heads != p.heads || items != program.items_) {
      return {};  // layers of different kinds
    }
    mixer->items = static_cast<int>(program.items_.size());
    packed_columns = std::max(packed_columns, layer->in->out.cols);
    mixed_columns = std::max(mixed_columns, layer->out->x.cols);
    inner_columns = std::max(inner_columns, layer->down->x.cols);

    add_linear(*layer->in).before_mixer = true;
    program.ops_.back().mixer = *mixer;
    ProgramOp op;
    op.kind = ProgramOp::Kind::kMixer;
    op.mixer = *mixer;
    const int state_rows = std::min(p.key_dim, kProgramStateRows);
    program.streams_.push_back({.map = static_cast<int>(program.maps_.size()),
                                .pieces = p.key_dim / state_rows,
                                .items = mixer->items,
                                .key_dim = p.key_dim});
    program.maps_.push_back(
        MakeTileMap(p.state, DType::kF32, p.value_dim, state_rows, kProgramStateColumns));
    program.ops_.push_back(op);
    ProgramLinear& out = add_linear(*layer->out);
    program.ops_.back().mixer = *mixer;
    out.heads = p.heads;
    const Matrix& gate = layer->out->gate;
    if (gate.present()) {
      const std::optional<int> column = ColumnOf(layer->in->out, gate);
      if (!column || *column % 4 != 0) return {};
      gate_words.push_back(*column / 2);
    } else {
      gate_words.push_back(-1);
    }
    add_linear(*layer->gate_up);
    add_linear(*layer->down);
  }
  add_linear(*head);
  program.blocks_ = fewest_tiles;

  for (size_t i = 0; i < program.ops_.size(); ++i) {
    ProgramLinear& linear = program.ops_[i].linear;
    const DecodeLinearArgs& args = linear.args;
    if (program.ops_[i].kind == ProgramOp::Kind::kMixer) continue;
    if (args.x.rows != 1 || linear.tiles_at_once == 0) return {};
    linear.rest = linear.base % program.blocks_;
    linear.base /= program.blocks_;
    program.streams_[i].base = linear.base;
    program.streams_[i].rest = linear.rest;
    const int tiles = linear.base + (linear.rest > 0 ? 1 : 0);
    const int at_once = std::min(tiles, linear.tiles_at_once);
    const int pairs_of_tile = args.output == Output::kSwiGlu ? 2 : 4;
    if (at_once * pairs_of_tile > kProgramThreads) return {};
    // A block holds its share of the residual while it adds up.
    if (args.output == Output::kAdd && tiles > linear.tiles_at_once) return {};
    const PrepareStepArgs& prepare = program.ops_[i].mixer.prepare;
    if (args.input == Input::kHeadsNormed && prepare.q.cols + prepare.k.cols + prepare.v.cols >
                                                 int64_t{kProgramThreads} * program.blocks_) {
      return {};
    }
  }
  params.staging_bytes = (staging + 15) / 16 * 16;
  params.count = static_cast<int>(program.ops_.size());
  params.items = static_cast<int>(program.items_.size());
  params.residual_base = DivideUp(params.residual_columns, kProgramTileRows) / program.blocks_;
  params.residual_rest = DivideUp(params.residual_columns, kProgramTileRows) % program.blocks_;
  params.slots = std::min(kProgramMaxSlots, (MaxSharedBytes() - kStaticBytes -
                                             ProgramFixedBytes(params.staging_bytes)) /
                                                ProgramSlotBytes());
  if (params.slots < kMinSlots) return {};

  Layout layout;
  const size_t ops_at = layout.Take(program.ops_.size() * sizeof(ProgramOp));
  const size_t streams_at = layout.Take(program.streams_.size() * sizeof(ProgramStream));
  const size_t maps_at = layout.Take(program.maps_.size() * sizeof(TileMap));
  const size_t items_at = layout.Take(program.items_.size() * sizeof(MixerItem));
  const size_t launches_at = layout.Take(sizeof(uint64_t));
  const auto exchange_at = [&](int64_t words) { return layout.Take(words * sizeof(uint64_t)); };
  const size_t residual_at = exchange_at(params.residual_columns);
  const size_t packed_at = exchange_at(packed_columns / 2);
  const size_t mixed_at = exchange_at(mixed_columns / 2), inner_at = exchange_at(inner_columns / 2);
  program.memory_ = Buffer(device, layout.size());
  char* const memory = program.memory_.as<char>();
  const auto words_at = [&](size_t at) { return reinterpret_cast<uint64_t*>(memory + at); };
  uint64_t* const packed = words_at(packed_at);
  uint64_t* const mixed = words_at(mixed_at);
  uint64_t* const inner = words_at(inner_at);
  params.residual_words = words_at(residual_at);
  params.ops = reinterpret_cast<const ProgramOp*>(memory + ops_at);
  params.streams = reinterpret_cast<const ProgramStream*>(memory + streams_at);
  params.maps = reinterpret_cast<const TileMap*>(memory + maps_at);
  params.plan = reinterpret_cast<const MixerItem*>(memory + items_at);
  params.launches = reinterpret_cast<uint64_t*>(memory + launches_at);
  auto gate_word = gate_words.begin();
  for (ProgramOp& op : program.ops_) {
    const DecodeLinearArgs& args = op.linear.args;
    if (op.kind == ProgramOp::Kind::kMixer) {
      op.from = packed;
      op.to = mixed;
    } else if (args.input == Input::kHeadsNormed) {
      op.from = mixed;
      op.to = params.residual_words;
      if (*gate_word >= 0) op.linear.gate = packed + *gate_word;
      ++gate_word;
    } else if (args.input == Input::kPlain) {
      op.from = inner;
      op.to = params.residual_words;
    } else {
      op.from = params.residual_words;
      op.to = args.output == Output::kSwiGlu   ? inner
              : args.out.dtype == DType::kBF16 ? packed
                                               : nullptr;
    }
    op.mixer.packed = packed;
    op.mixer.plan = params.plan;
  }
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
