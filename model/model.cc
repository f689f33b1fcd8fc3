#include "model/model.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "kernels/ops.h"
#include "model/activation_arena.h"
#include "model/batch_view.h"
#include "model/mixer.h"
#include "model/safetensors.h"
#include "model/weights.h"

namespace fla {
namespace {

// x += mixer(norm(x)); x += mlp(norm(x))
struct Layer {
  const float* mixer_norm;
  Mixer mixer;
  const float* mlp_norm;
  Matrix gate_up;  // [2 I, D]
  Matrix down;     // [D, I]
};

Layer TakeLayer(const ModelConfig& config, int index, int max_tokens, WeightReader& weights) {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  return {weights.Vector(prefix + "attn_norm.weight", hidden),
          Mixer(config.mixer, config.hidden_size, max_tokens, prefix + "attn.", weights),
          weights.Vector(prefix + "mlp_norm.weight", hidden),
          weights.PackRows(
              {{prefix + "mlp.gate_proj.weight", inner}, {prefix + "mlp.up_proj.weight", inner}},
              hidden),
          weights.Take(prefix + "mlp.down_proj.weight", hidden, inner)};
}

// The index arrays of a batch in host memory, one after the other, to be copied in one go.
class IndexArrays {
 public:
  // Where the array will begin, in ints.
  size_t Add(const std::vector<int>& values) {
    const size_t begin = host_.size();
    host_.insert(host_.end(), values.begin(), values.end());
    return begin;
  }
  // Copies all to the device; pointers from At are valid until the next Upload.
  void Upload(Stream& stream, Buffer& device) {
    const size_t bytes = host_.size() * sizeof(int);
    if (device.size() < bytes) device = Buffer(stream.device(), 2 * bytes);
    stream.CopyToDevice(device.data(), host_.data(), bytes);
    device_ = device.as<int>();
  }
  const int* At(size_t begin) const { return device_ + begin; }
  const int* HostAt(size_t begin) const { return host_.data() + begin; }
  void Clear() { host_.clear(); }

 private:
  std::vector<int> host_;
  const int* device_ = nullptr;
};

[[noreturn]] void BadBatch(const std::string& what) {
  throw std::invalid_argument("batch: " + what);
}

void CheckBatch(const Batch& batch, const ModelConfig& config, int slots) {
  const size_t sequences = batch.slots.size();
  if (batch.cu_seqlens.size() != sequences + 1 || batch.positions.size() != sequences ||
      batch.cu_seqlens.front() != 0 ||
      batch.cu_seqlens.back() != static_cast<int>(batch.tokens.size())) {
    BadBatch("arrays do not fit together");
  }
  if (batch.num_decode < 0 || batch.num_decode > static_cast<int>(sequences)) {
    BadBatch("num_decode");
  }
  for (size_t i = 0; i < sequences; ++i) {
    const int length = batch.cu_seqlens[i + 1] - batch.cu_seqlens[i];
    if (length < 1 || (static_cast<int>(i) < batch.num_decode && length != 1)) {
      BadBatch("length of sequence " + std::to_string(i));
    }
    if (batch.slots[i] < 0 || batch.slots[i] >= slots) BadBatch("slot out of range");
  }
  for (const int token : batch.tokens) {
    if (token < 0 || token >= config.vocab_size) {
      BadBatch("token " + std::to_string(token) + " is out of range");
    }
  }
  for (const int row : batch.logits_rows) {
    if (row < 0 || row >= static_cast<int>(batch.tokens.size())) BadBatch("logits row");
  }
}

}  // namespace

struct Model::Parts {
  Parts(const LoadOptions& options, ModelConfig model_config)
      : config(std::move(model_config)),
        dtype(options.dtype),
        stream(options.device),
        arena(options.device) {}

  BatchView View(const Batch& batch);
  Matrix HiddenOfRows(const Batch& batch, Matrix residual, Matrix delta);

  ModelConfig config;
  DType dtype;
  Stream stream;
  ActivationArena arena;
  IndexArrays indices;
  Buffer device_indices;
  const int* logits_rows = nullptr;  // device

  std::vector<Buffer> memory;  // of all weights
  Matrix embeddings;           // [vocab, D]
  std::vector<Layer> layers;
  const float* norm = nullptr;
  Matrix head;  // [vocab, D], the embeddings where tied
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
};

std::unique_ptr<Model> Model::Load(const LoadOptions& options) {
  ModelConfig config = LoadModelConfig(options.path);
  const Checkpoint checkpoint = Checkpoint::Open(options.path);
  auto parts = std::make_unique<Parts>(options, std::move(config));
  const int64_t vocab = parts->config.vocab_size, hidden = parts->config.hidden_size;

  WeightReader weights(checkpoint, parts->stream, options.dtype, options.progress);
  parts->embeddings = weights.Take("model.embeddings.weight", vocab, hidden);
  for (int i = 0; i < parts->config.num_layers; ++i) {
    parts->layers.push_back(TakeLayer(parts->config, i, options.max_batch_tokens, weights));
  }
  parts->norm = weights.Vector("model.norm.weight", hidden);
  if (parts->config.tie_word_embeddings) {
    parts->head = parts->embeddings;
    weights.Skip("lm_head.weight");
  } else {
    parts->head = weights.Take("lm_head.weight", vocab, hidden);
  }
  weights.Finish();
  parts->memory = weights.ReleaseMemory();
  parts->parameters = weights.parameters();
  parts->weight_bytes = weights.bytes();
  return std::unique_ptr<Model>(new Model(std::move(parts)));
}

Model::Model(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Model::~Model() = default;

const ModelConfig& Model::config() const { return parts_->config; }
Stream& Model::stream() { return parts_->stream; }
int64_t Model::parameters() const { return parts_->parameters; }
int64_t Model::weight_bytes() const { return parts_->weight_bytes; }
int64_t Model::workspace_bytes() const {
  return static_cast<int64_t>(parts_->arena.bytes() + parts_->device_indices.size() +
                              parts_->stream.workspace_bytes());
}
DType Model::dtype() const { return parts_->dtype; }

BatchView Model::Parts::View(const Batch& batch) {
  const int sequences = static_cast<int>(batch.slots.size());
  std::vector<int> positions, prompt_cu_seqlens;
  for (int i = 0; i < sequences; ++i) {
    const int length = batch.cu_seqlens[i + 1] - batch.cu_seqlens[i];
    for (int t = 0; t < length; ++t) positions.push_back(batch.positions[i] + t);
  }
  for (int i = batch.num_decode; i <= sequences; ++i) {
    prompt_cu_seqlens.push_back(batch.cu_seqlens[i] - batch.num_decode);
  }
  indices.Clear();
  const size_t at_tokens = indices.Add(batch.tokens), at_positions = indices.Add(positions);
  const size_t at_slots = indices.Add(batch.slots), at_cu_seqlens = indices.Add(batch.cu_seqlens);
  const size_t at_prompts = indices.Add(prompt_cu_seqlens);
  const size_t at_rows = indices.Add(batch.logits_rows);
  indices.Upload(stream, device_indices);
  logits_rows = indices.At(at_rows);
  return {.num_tokens = static_cast<int>(batch.tokens.size()),
          .num_sequences = sequences,
          .num_decode = batch.num_decode,
          .tokens = indices.At(at_tokens),
          .positions = indices.At(at_positions),
          .slots = indices.At(at_slots),
          .cu_seqlens = indices.At(at_cu_seqlens),
          .cu_seqlens_host = indices.HostAt(at_cu_seqlens),
          .prompt_cu_seqlens = indices.At(at_prompts),
          .prompt_cu_seqlens_host = indices.HostAt(at_prompts)};
}

// Final hidden states, normalised, of the rows whose logits are wanted.
Matrix Model::Parts::HiddenOfRows(const Batch& batch, Matrix residual, Matrix delta) {
  const int64_t rows = static_cast<int64_t>(batch.logits_rows.size()), hidden = config.hidden_size;
  if (rows < residual.rows) {
    const Matrix wanted_residual = arena.Take(rows, hidden, residual.dtype);
    const Matrix wanted_delta = arena.Take(rows, hidden, delta.dtype);
    GatherRows(stream, residual, logits_rows, wanted_residual);
    GatherRows(stream, delta, logits_rows, wanted_delta);
    residual = wanted_residual;
    delta = wanted_delta;
  }
  const Matrix out = arena.Take(rows, hidden, dtype);
  AddRmsNorm(stream, residual, delta, norm, config.norm_eps, out);
  return out;
}

Matrix Model::Forward(const Batch& batch, StatePool& pool) {
  Parts& m = *parts_;
  CheckBatch(batch, m.config, pool.total());
  if (batch.tokens.empty()) return {};
  const BatchView view = m.View(batch);
  const int64_t tokens = view.num_tokens, hidden = m.config.hidden_size;
  m.arena.ReturnTo({});

  // The residual stream is f32 whatever the dtype: its rounding would add up over the layers.
  const Matrix residual = m.arena.Take(tokens, hidden, DType::kF32);
  const Matrix delta = m.arena.Take(tokens, hidden, m.dtype);  // what the last block adds
  const Matrix normed = m.arena.Take(tokens, hidden, m.dtype);
  EmbeddingLookup(m.stream, view.tokens, m.embeddings, residual);
  for (size_t i = 0; i < m.layers.size(); ++i) {
    const Layer& layer = m.layers[i];
    const ActivationArena::Mark mark = m.arena.mark();
    if (i == 0) {
      RmsNorm(m.stream, residual, layer.mixer_norm, m.config.norm_eps, normed);
    } else {
      AddRmsNorm(m.stream, residual, delta, layer.mixer_norm, m.config.norm_eps, normed);
    }
    layer.mixer.Forward(m.stream, m.arena, view, pool.layer(static_cast<int>(i)),
                        pool.state_dtype(), normed, delta);
    m.arena.ReturnTo(mark);

    AddRmsNorm(m.stream, residual, delta, layer.mlp_norm, m.config.norm_eps, normed);
    const Matrix gate_up = m.arena.Take(tokens, 2 * m.config.intermediate_size, m.dtype);
    const Matrix inner = m.arena.Take(tokens, m.config.intermediate_size, m.dtype);
    Linear(m.stream, normed, layer.gate_up, nullptr, gate_up);
    SwiGlu(m.stream, gate_up, inner);
    Linear(m.stream, inner, layer.down, nullptr, delta);
    m.arena.ReturnTo(mark);
  }
  if (batch.logits_rows.empty()) return {};
  const Matrix last = m.HiddenOfRows(batch, residual, delta);
  const Matrix logits = m.arena.Take(last.rows, m.config.vocab_size, DType::kF32);
  Linear(m.stream, last, m.head, nullptr, logits);
  return logits;
}

}  // namespace fla
