#include "model/model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>

#include "kernels/decode.h"
#include "kernels/ops.h"
#include "kernels/prefill.h"
#include "model/activation_arena.h"
#include "model/batch_indices.h"
#include "model/checkpoint_layout.h"
#include "model/decode_projections.h"
#include "model/feed_forward.h"
#include "model/mixer.h"
#include "model/norm.h"
#include "model/projected_vocabulary.h"
#include "model/residual_stream.h"
#include "model/weights.h"

namespace fla {
namespace {

// x += mixer(norm(x)); x += feed_forward(norm(x))
struct Layer {
  Norm mixer_norm;
  Mixer mixer;
  Norm mlp_norm;
  FeedForward feed_forward;
};

Layer TakeLayer(const ModelConfig& config, int index, int max_tokens, WeightReader& weights) {
  const bool axon = config.mixer.layout == TensorLayout::kAxon;
  const std::string prefix = axon ? config.block_name + "_" + std::to_string(index + 1) + "_"
                                  : "model.layers." + std::to_string(index) + ".";
  return {TakeNorm(config, prefix + "attn_norm", weights),
          Mixer(config.mixer, config.hidden_size, max_tokens, prefix + (axon ? "attn_" : "attn."),
                weights),
          TakeNorm(config, prefix + (axon ? "ffn_norm" : "mlp_norm"), weights),
          TakeFeedForward(config, prefix, weights)};
}

// Rows of the decode batches that are recorded: all up to 16, then eight sizes from a power of two
// to the next, so that at most an eighth of the rows is padding. The powers are among them because
// kernels have tiles of so many rows: a row more costs a larger tile.
std::vector<int> RecordedRows(int max_decode) {
  std::vector<int> sizes;
  const auto step = [](int rows) {
    return std::max(1, static_cast<int>(std::bit_floor<unsigned>(rows)) / 8);
  };
  for (int rows = 1; rows < max_decode; rows += step(rows)) sizes.push_back(rows);
  sizes.push_back(max_decode);
  return sizes;
}

// Tokens of the prompts that are recorded: few enough for the launch of kernels to count.
std::vector<int> RecordedPromptTokens(int max_tokens) {
  std::vector<int> sizes;
  for (const int tokens : {16, 32, 64, 128, 256}) {
    if (tokens <= max_tokens) sizes.push_back(tokens);
  }
  return sizes;
}

}  // namespace

struct Model::Parts {
  Parts(const LoadOptions& options, ModelConfig model_config)
      : config(std::move(model_config)),
        dtype(options.dtype),
        stream(options.device),
        max_batch_tokens(options.max_batch_tokens),
        arena(options.device),
        began(options.device, sizeof(DeviceTime)),
        near_end{Fence(options.device), Fence(options.device)},
        indices(stream, options.max_batch_tokens, config.embed_dim) {}

  // A batch of up to `rows` rows, the states and sampled tokens of `pool` and `sampled`.
  struct RecordedBatch {
    int rows;
    Recording recording;
    Matrix logits;
  };

  void TakeWeights(WeightReader& weights);
  void TakeInput(WeightReader& weights);
  void TakeOutput(WeightReader& weights);
  void ReadInputs(const BatchView& batch, Matrix residual);
  // Before Run or the replay of a recording of it, whose batch is `view`.
  void SettlePending(const Batch& batch, const BatchView& view, StatePool& pool);
  // `near_end`, if given, is recorded before the last quarter of the layers of more than few rows.
  ForwardResult Run(const BatchView& batch, const StatePool& pool, Fence* near_end = nullptr);
  // The op from layer `index`'s recurrence, which leaves `heads`, to the next one's, which reads
  // `packed`; takes scratch from the arena.
  BetweenRecurrencesArgs SeamOf(size_t index, Matrix heads, Matrix residual, Matrix normed,
                                Matrix packed);
  bool HasSeams(const BatchView& batch);
  bool IsSmall(const BatchView& batch);
  Matrix RunSmall(const BatchView& batch, const StatePool& pool);
  std::optional<PickedRows> WantedOfLast(const BatchView& batch) const;
  void LookAtNorms();
  Matrix HiddenForLogits(const BatchView& batch, Matrix residual, Matrix delta);
  Matrix WantedHidden(const BatchView& batch, Matrix residual, Matrix delta);
  void RunLargest(StatePool& pool, int sequences, int max_logits_rows, bool hidden);
  void RecordDecode(const StatePool& pool, int max_decode);
  void RecordPrompts(const StatePool& pool);
  // Runs and then records the batch of that view.
  RecordedBatch Record(const StatePool& pool, const BatchView& view);
  bool MayBeRecorded(const Batch& batch, const StatePool& pool) const;

  ModelConfig config;
  DType dtype;
  Stream stream;
  int max_batch_tokens;
  ActivationArena arena;
  Buffer began;                   // DeviceTime: when the last step's tokens were looked up
  std::array<Fence, 2> near_end;  // of the last two batches that were not recorded, in turn
  size_t last_near_end = 0;
  BatchIndices indices;

  std::vector<RecordedBatch> recorded_decode, recorded_prompts;  // ascending rows
  const StatePool* recorded_pool = nullptr;
  const int* recorded_sampled = nullptr;

  std::vector<Buffer> memory;  // of all weights
  Matrix embeddings;           // [vocab, E], absent where there is no vocabulary
  Matrix input_projection;     // [D, E], absent where E = D
  const float* input_bias = nullptr;
  std::vector<Layer> layers;
  bool can_fold = false;  // residual streams (LookAtNorms)
  ProjectedVocabulary projected_vocabulary;
  Norm norm;
  Matrix head;  // [vocab, D], the embeddings where tied
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
};

void Model::Parts::TakeInput(WeightReader& weights) {
  const int64_t vocab = config.vocab_size, hidden = config.hidden_size;
  if (config.mixer.layout == TensorLayout::kLibrary) {
    embeddings = weights.Table("model.embeddings.weight", vocab, hidden);
    return;
  }
  const int64_t inputs = config.embed_dim;
  if (vocab > 0) embeddings = weights.Table("token_embedding.kernel", vocab, inputs);
  if (inputs != hidden) {
    input_projection = weights.TakeTransposed("input_projection.kernel", inputs, hidden);
    input_bias = weights.Vector("input_projection.bias", hidden);
  }
}

void Model::Parts::TakeOutput(WeightReader& weights) {
  const int64_t vocab = config.vocab_size, hidden = config.hidden_size;
  const bool axon = config.mixer.layout == TensorLayout::kAxon;
  norm = TakeNorm(config, axon ? "final_norm" : "model.norm", weights);
  if (axon) {
    if (vocab > 0) head = weights.TakeTransposed("lm_head.kernel", hidden, vocab);
  } else if (config.tie_word_embeddings) {
    head = weights.ForLinear(embeddings);
    weights.Skip("lm_head.weight");
  } else {
    head = weights.Take("lm_head.weight", vocab, hidden);
  }
}

void Model::Parts::TakeWeights(WeightReader& weights) {
  TakeInput(weights);
  for (int i = 0; i < config.num_layers; ++i) {
    layers.push_back(TakeLayer(config, i, max_batch_tokens, weights));
  }
  TakeOutput(weights);
  weights.Finish();
  memory = weights.ReleaseMemory();
  parameters = weights.parameters();
  weight_bytes = weights.bytes();
}

void Model::Parts::LookAtNorms() {
  can_fold = dtype == DType::kBF16 && FoldsResiduals(stream, config.hidden_size) &&
             std::all_of(layers.begin(), layers.end(), [&](const Layer& layer) {
               return IsFoldable(stream, layer.mixer_norm, config.hidden_size) &&
                      IsFoldable(stream, layer.mlp_norm, config.hidden_size);
             });
}

std::unique_ptr<Model> Model::Load(const LoadOptions& options) {
  ModelConfig config = LoadModelConfig(options.path);
  const Checkpoint checkpoint = OpenCheckpoint(options.path, config);
  auto parts = std::make_unique<Parts>(options, std::move(config));
  WeightReader weights(checkpoint, parts->stream,
                       {options.dtype, options.weight_dtype.value_or(options.dtype)},
                       options.progress);
  parts->TakeWeights(weights);
  parts->LookAtNorms();
  if (!parts->input_projection.present()) {
    const Layer& first = parts->layers[0];
    parts->projected_vocabulary =
        ProjectedVocabulary::Make(parts->stream, parts->arena, parts->embeddings, first.mixer_norm,
                                  first.mixer, parts->weight_bytes, parts->max_batch_tokens);
  }
  return std::unique_ptr<Model>(new Model(std::move(parts)));
}

WeightSizes Model::CheckWeights(const ModelConfig& config, const Checkpoint& checkpoint,
                                DType dtype, std::optional<DType> weight_dtype,
                                std::vector<std::string>& problems) {
  LoadOptions options;
  options.dtype = dtype;
  options.max_batch_tokens = 1;
  Parts parts(options, config);
  WeightReader weights(checkpoint, {dtype, weight_dtype.value_or(dtype)}, problems);
  try {
    parts.TakeWeights(weights);
  } catch (const TooManyProblems&) {
    problems.emplace_back("and more");
  }
  return {weights.parameters(), weights.bytes()};
}

Model::Model(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Model::~Model() = default;

const ModelConfig& Model::config() const { return parts_->config; }
Stream& Model::stream() { return parts_->stream; }
int64_t Model::parameters() const { return parts_->parameters; }
int64_t Model::weight_bytes() const { return parts_->weight_bytes; }
int64_t Model::workspace_bytes() const {
  return static_cast<int64_t>(parts_->arena.bytes() + parts_->indices.bytes() +
                              parts_->stream.workspace_bytes()) +
         parts_->projected_vocabulary.bytes();
}
DType Model::dtype() const { return parts_->dtype; }

// The rows for which the last layer runs what follows its recurrence, where these are not all. A
// prompt wants no more than its last token's logits, or none before its last piece.
std::optional<PickedRows> Model::Parts::WantedOfLast(const BatchView& batch) const {
  if (batch.num_hidden_rows > 0 || batch.num_logits_rows == batch.num_tokens) return {};
  return PickedRows{batch.logits_rows, batch.num_logits_rows};
}

// Final hidden states, normalised, of the rows whose logits are wanted. May add delta to residual.
Matrix Model::Parts::HiddenForLogits(const BatchView& batch, Matrix residual, Matrix delta) {
  const int64_t rows = batch.num_logits_rows, hidden = config.hidden_size;
  if (rows < residual.rows) {
    const Matrix wanted_residual = arena.Take(rows, hidden, residual.dtype);
    const Matrix wanted_delta = arena.Take(rows, hidden, delta.dtype);
    GatherRows(stream, residual, batch.logits_rows, wanted_residual);
    GatherRows(stream, delta, batch.logits_rows, wanted_delta);
    residual = wanted_residual;
    delta = wanted_delta;
  }
  const Matrix out = arena.Take(rows, hidden, dtype);
  AddAndNorm(stream, norm, residual, delta, out);
  return out;
}

// Those that the batch asks for, in f32 whatever the dtype.
Matrix Model::Parts::WantedHidden(const BatchView& batch, Matrix residual, Matrix delta) {
  const int64_t rows = batch.num_hidden_rows, hidden = config.hidden_size;
  const Matrix out = arena.Take(rows, hidden, DType::kF32);
  const ActivationArena::Mark mark = arena.mark();
  const Matrix sum = arena.Take(rows, hidden, residual.dtype);
  const Matrix last = arena.Take(rows, hidden, delta.dtype);
  GatherRows(stream, residual, batch.hidden_rows, sum);
  GatherRows(stream, delta, batch.hidden_rows, last);
  Add(stream, sum, last);
  ApplyNorm(stream, norm, sum, out);
  arena.ReturnTo(mark);
  return out;
}

// A batch of few rows: what the GPU waits for is weights and the launch of kernels, not products.
bool Model::Parts::IsSmall(const BatchView& batch) {
  return stream.device().is_cuda() && dtype == DType::kBF16 && norm.kind == NormKind::kRms &&
         batch.num_hidden_rows == 0 && batch.num_vector_rows == 0 &&
         batch.num_tokens <= MaxDecodeLinearRows(stream);
}

// The logits, absent where none are wanted.
Matrix Model::Parts::RunSmall(const BatchView& batch, const StatePool& pool) {
  const std::optional<PickedRows> wanted = WantedOfLast(batch);
  arena.ReturnTo({});
  const Matrix all = arena.Take(batch.num_tokens, config.hidden_size, DType::kF32);
  Matrix residual = all;
  EmbeddingLookup(stream, batch.tokens, embeddings, all, batch.sampled, began.as<DeviceTime>());
  ActivationArena::Mark mark = arena.mark();
  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const bool last = i + 1 == layers.size();
    if (last && wanted) {
      residual = arena.Take(wanted->count, config.hidden_size, DType::kF32);
      GatherRows(stream, all, wanted->rows, residual);
      mark = arena.mark();
    }
    layer.mixer.Step(stream, arena, batch, pool.layer(static_cast<int>(i)), pool.state_dtype(),
                     {all, layer.mixer_norm.weight, config.norm_eps}, last ? wanted : std::nullopt,
                     residual);
    arena.ReturnTo(mark);
    if (residual.rows == 0) return {};
    const Matrix inner = arena.Take(residual.rows, config.intermediate_size, dtype);
    ProjectSwiGlu(stream, arena, {residual, layer.mlp_norm.weight, config.norm_eps},
                  layer.feed_forward.in, inner);
    AddProjection(stream, arena, inner, layer.feed_forward.down, residual);
    arena.ReturnTo(mark);
  }
  const Matrix logits = arena.Take(residual.rows, config.vocab_size, DType::kF32);
  ProjectNormed(stream, arena, {residual, norm.weight, config.norm_eps}, head, logits);
  return logits;
}

// residual [T, D] = the tokens' embeddings and the rows that are given as vectors, through the
// input projection where there is one.
void Model::Parts::ReadInputs(const BatchView& batch, Matrix residual) {
  const ActivationArena::Mark mark = arena.mark();
  const bool projects = input_projection.present();
  const Matrix x = projects ? arena.Take(batch.num_tokens, config.embed_dim, dtype) : residual;
  if (embeddings.present()) {
    EmbeddingLookup(stream, batch.tokens, embeddings, x, batch.sampled, began.as<DeviceTime>());
  }
  int64_t vector = 0;
  for (int i = 0; i < batch.num_vector_rows; ++i) {
    const RowRange range = batch.vector_rows_host[i];
    GatherRows(stream, batch.vectors.Rows(vector, range.count), batch.counting,
               x.Rows(range.begin, range.count));
    vector += range.count;
  }
  if (projects) Linear(stream, x, input_projection, input_bias, residual);
  arena.ReturnTo(mark);
}

void Model::Parts::SettlePending(const Batch& batch, const BatchView& view, StatePool& pool) {
  const std::span<const int> slots(batch.slots);
  const int leaving = LeavesPending(view, dtype) ? batch.num_decode : 0;
  pool.ApplyPending(stream, slots.subspan(leaving), view.slots + leaving);
  pool.LeavePending(slots.first(leaving));
}

BetweenRecurrencesArgs Model::Parts::SeamOf(size_t index, Matrix heads, Matrix residual,
                                            Matrix normed, Matrix packed) {
  const Layer &layer = layers[index], &next = layers[index + 1];
  return {.x = heads,
          .output = layer.mixer.output_projection(),
          .residual = residual,
          .norm = layer.mlp_norm.weight,
          .eps = config.norm_eps,
          .gate_up = layer.feed_forward.in,
          .down = layer.feed_forward.down,
          .next_norm = next.mixer_norm.weight,
          .next = next.mixer.input_projection(),
          .normed = normed,
          .inner = arena.Take(residual.rows, config.intermediate_size, dtype),
          .out = packed};
}

// Whether the layers can be joined by SeamOf's op. All are of one kind and size.
bool Model::Parts::HasSeams(const BatchView& batch) {
  // Between the states of many sequences memory has no rest for it to use.
  if (!stream.device().is_cuda() || batch.num_tokens > kMaxTokensBetweenRecurrences ||
      batch.num_decode > 0 || layers.size() < 2 || norm.kind != NormKind::kRms ||
      config.feed_forward != FeedForwardKind::kSwiGlu || layers[0].mixer.has_biases()) {
    return false;
  }
  const ActivationArena::Mark mark = arena.mark();
  const auto take = [&](int64_t columns, DType of) {
    return arena.Take(batch.num_tokens, columns, of);
  };
  const Mixer& mixer = layers[0].mixer;
  const Matrix heads = take(mixer.output_projection().cols, dtype);
  const Matrix residual = take(config.hidden_size, DType::kF32);
  const Matrix normed = take(config.hidden_size, dtype);
  const Matrix packed = take(mixer.input_projection().rows, dtype);
  const bool takes = TakesBetweenRecurrences(stream, SeamOf(0, heads, residual, normed, packed));
  arena.ReturnTo(mark);
  return takes;
}

ForwardResult Model::Parts::Run(const BatchView& batch, const StatePool& pool, Fence* near_end) {
  arena.ReturnTo({});
  const bool joined = HasSeams(batch);
  if (!joined && IsSmall(batch)) return {.logits = RunSmall(batch, pool)};
  const int64_t tokens = batch.num_tokens;
  const std::optional<PickedRows> wanted = WantedOfLast(batch);
  const bool folds = can_fold && wanted && tokens >= kMinFoldedRows;
  ResidualStream x(stream, arena, tokens, config.hidden_size, dtype, folds);
  ReadInputs(batch, x.rows());
  const bool looks_up = projected_vocabulary.Has(batch);
  if (folds || !looks_up) x.Begin(layers[0].mixer_norm);
  // What the first mixer's input projection makes.
  const auto first_packed = [&] {
    const Matrix packed = arena.Take(tokens, layers[0].mixer.input_projection().rows, dtype);
    if (looks_up) {
      projected_vocabulary.LookUp(stream, batch, packed);
    } else {
      layers[0].mixer.Project(stream, x.normed(), packed);
    }
    return packed;
  };
  // Where layers are joined, what a recurrence reads comes with what the one before it adds.
  Matrix joined_packed;
  if (joined) joined_packed = first_packed();
  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const bool last = i + 1 == layers.size(), picks = wanted && last;
    if (near_end != nullptr && i == layers.size() * 3 / 4) near_end->Record(stream);
    ActivationArena::Mark mark = arena.mark();
    if (i > 0 && !joined) x.Add(layer.mixer_norm);
    if (picks) {
      x.Pick(*wanted);
      mark = arena.mark();
    }
    const StatePool::LayerState& state = pool.layer(static_cast<int>(i));
    const std::optional<PickedRows> picked = picks ? wanted : std::nullopt;
    if (joined || (i == 0 && looks_up)) {
      const Matrix packed = joined ? joined_packed : first_packed();
      const Matrix heads =
          layer.mixer.Heads(stream, arena, batch, state, pool.state_dtype(), packed, picked);
      if (joined && !last) {
        BetweenRecurrences(stream, SeamOf(i, heads, x.rows(), x.normed(), packed));
        arena.ReturnTo(mark);
        continue;
      }
      if (x.rows().rows > 0) layer.mixer.ProjectHeads(stream, heads, x.delta());
    } else {
      layer.mixer.Forward(stream, arena, batch, state, pool.state_dtype(), x.normed(), picked,
                          x.delta());
    }
    arena.ReturnTo(mark);
    if (picks && wanted->count == 0) return {};
    x.Add(layer.mlp_norm);
    layer.feed_forward.Forward(stream, arena, x.normed(), x.delta());
    arena.ReturnTo(mark);
  }
  ForwardResult result;
  if (batch.num_hidden_rows > 0) result.hidden = WantedHidden(batch, x.rows(), x.delta());
  if (batch.num_logits_rows > 0) {
    const Matrix last = HiddenForLogits(batch, x.rows(), x.delta());
    result.logits = arena.Take(last.rows, config.vocab_size, DType::kF32);
    Linear(stream, last, head, nullptr, result.logits);
  }
  return result;
}

ForwardResult Model::Forward(const Batch& batch, StatePool& pool) {
  Parts& m = *parts_;
  CheckBatch(batch, m.config, pool.total());
  if (batch.tokens.empty()) return {};
  const size_t tokens = batch.tokens.size();
  const bool decodes = IsPureDecode(batch);
  if ((decodes || IsPurePrompt(batch)) && m.MayBeRecorded(batch, pool)) {
    // The smallest that holds the batch.
    const auto& recorded = decodes ? m.recorded_decode : m.recorded_prompts;
    const auto found = std::find_if(recorded.begin(), recorded.end(), [&](const auto& r) {
      return static_cast<size_t>(r.rows) >= tokens;
    });
    if (found != recorded.end()) {
      if (decodes) {
        m.indices.UploadDecode(m.stream, batch, found->rows);
        m.SettlePending(batch, m.indices.DecodeView(found->rows, batch.sampled), pool);
      } else {
        m.indices.UploadPrompt(m.stream, batch, found->rows);
        m.SettlePending(batch, m.indices.PromptView(found->rows, batch.sampled), pool);
      }
      found->recording.Replay(m.stream);
      return {
          .logits = decodes ? found->logits.Rows(0, static_cast<int64_t>(tokens)) : found->logits,
          .began = m.began.as<DeviceTime>()};
    }
  }
  const BatchView view = m.indices.Upload(m.stream, batch);
  m.SettlePending(batch, view, pool);
  Fence& near_end = m.near_end[++m.last_near_end % m.near_end.size()];
  ForwardResult result = m.Run(view, pool, &near_end);
  result.nears_end = [&near_end] { return near_end.IsPassed(); };
  if (m.embeddings.present()) result.began = m.began.as<DeviceTime>();
  return result;
}

void Model::Prepare(StatePool& pool, const int* sampled, int max_decode, int max_logits_rows) {
  Parts& m = *parts_;
  if (!m.stream.device().is_cuda()) return;
  const Tuning tuning(m.stream);
  const int most = std::min(m.max_batch_tokens, pool.total());
  for (const bool hidden : {false, true}) {
    m.RunLargest(pool, 1, max_logits_rows, hidden);
    m.RunLargest(pool, most, max_logits_rows, hidden);
  }
  if (m.config.vocab_size > 0) {
    m.recorded_pool = &pool;
    m.recorded_sampled = sampled;
    m.RecordDecode(pool, std::min(max_decode, most));
    m.RecordPrompts(pool);
  }
  m.stream.Synchronize();
}

// max_batch_tokens tokens as prompts of as many sequences. `hidden`: all hidden states are wanted;
// else not all rows are, for which the last layer takes more memory (WantedOfLast).
void Model::Parts::RunLargest(StatePool& pool, int sequences, int max_logits_rows, bool hidden) {
  Batch batch;
  batch.tokens.assign(max_batch_tokens, 0);
  batch.positions.assign(sequences, 0);
  for (int i = 0; i <= sequences; ++i) {
    batch.cu_seqlens.push_back(static_cast<int>(int64_t{max_batch_tokens} * i / sequences));
    if (i < sequences) batch.slots.push_back(i);
  }
  if (!hidden) max_logits_rows = std::min(max_logits_rows, max_batch_tokens - 1);
  for (int row = 0; row < max_batch_tokens; ++row) {
    if (row < max_logits_rows && config.vocab_size > 0) batch.logits_rows.push_back(row);
    if (hidden) batch.hidden_rows.push_back(row);
  }
  if (config.vocab_size == 0) {
    batch.vector_rows = {{0, max_batch_tokens}};
    batch.vectors.resize(static_cast<size_t>(max_batch_tokens) * config.embed_dim);
  }
  CheckBatch(batch, config, pool.total());
  const BatchView view = indices.Upload(stream, batch);
  pool.LeavePending(batch.slots);  // none do, but the kernel that looks for them is loaded
  SettlePending(batch, view, pool);
  Run(view, pool);
}

void Model::Parts::RecordDecode(const StatePool& pool, int max_decode) {
  recorded_decode.clear();
  for (const int rows : RecordedRows(max_decode)) {
    indices.UploadDecode(stream, {}, rows);
    recorded_decode.push_back(Record(pool, indices.DecodeView(rows, recorded_sampled)));
  }
}

void Model::Parts::RecordPrompts(const StatePool& pool) {
  recorded_prompts.clear();
  for (const int tokens : RecordedPromptTokens(max_batch_tokens)) {
    indices.UploadPrompt(stream, {}, tokens);
    recorded_prompts.push_back(Record(pool, indices.PromptView(tokens, recorded_sampled)));
  }
}

Model::Parts::RecordedBatch Model::Parts::Record(const StatePool& pool, const BatchView& view) {
  // Once for real, on padding alone: libraries load what they need, memory is taken.
  Matrix logits = Run(view, pool).logits;
  Recording recording(stream, [&] { logits = Run(view, pool).logits; });
  return {view.num_tokens, std::move(recording), logits};
}

bool Model::Parts::MayBeRecorded(const Batch& batch, const StatePool& pool) const {
  return &pool == recorded_pool && (batch.sampled == nullptr || batch.sampled == recorded_sampled);
}

}  // namespace fla
