#include "tests/server/fake_model.h"

#include <chrono>
#include <cmath>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fla {
namespace testing {
namespace {

uint32_t HashOf(std::span<const int> tokens) {
  uint32_t hash = 2166136261u;
  for (int token : tokens) hash = (hash ^ static_cast<uint32_t>(token + 1)) * 16777619u;
  return hash;
}

int NextOf(uint32_t hash) { return 'a' + static_cast<int>(hash >> 8) % 26; }

float LogitOf(uint32_t hash, int token) {
  if (token == NextOf(hash)) return 6.0f;
  return static_cast<float>((hash + static_cast<uint32_t>(token) * 40503u) % 1000) / 250;
}

float HiddenOf(uint32_t hash, int column) {
  return static_cast<float>((hash >> (2 * column)) % 2001) / 1000 - 1;
}

FakeModelOptions* options_of_next_load = nullptr;

// Thrown into the engine, which then ends every request with INTERNAL and this text.
void Check(bool condition, const char* what) {
  if (!condition) throw std::logic_error(std::string("bad batch: ") + what);
}

}  // namespace

int FakeNextToken(std::span<const int> tokens) { return NextOf(HashOf(tokens)); }

float FakeLogit(std::span<const int> tokens, int token) { return LogitOf(HashOf(tokens), token); }

std::vector<float> FakeHidden(std::span<const int> tokens) {
  std::vector<float> hidden;
  for (int column = 0; column < kFakeHidden; ++column) {
    hidden.push_back(HiddenOf(HashOf(tokens), column));
  }
  return hidden;
}

std::unique_ptr<Model> MakeFakeModel(FakeModelOptions& options) {
  options_of_next_load = &options;
  return Model::Load({});
}

}  // namespace testing

struct Model::Parts {
  testing::FakeModelOptions* options;
  ModelConfig config;
  Stream stream{Device{}};
  std::vector<std::vector<int>> seen;  // tokens by slot
  std::vector<float> logits, hidden;
  DeviceTime began = 0;
};

Model::Model(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Model::~Model() = default;

std::unique_ptr<Model> Model::Load(const LoadOptions&) {
  auto parts = std::make_unique<Parts>();
  parts->options = testing::options_of_next_load;
  ModelConfig& config = parts->config;
  config.model_type = "fake";
  config.vocab_size = testing::kFakeVocab;
  config.hidden_size = testing::kFakeHidden;
  config.num_layers = 1;
  config.eos_token_ids = {testing::kFakeEos};
  config.mixer.heads = config.mixer.q_heads = config.mixer.k_heads = config.mixer.v_heads = 1;
  config.mixer.head_k_dim = config.mixer.head_v_dim = 16;
  return std::unique_ptr<Model>(new Model(std::move(parts)));
}

ForwardResult Model::Forward(const Batch& batch, StatePool& pool) {
  using testing::Check;
  testing::FakeModelOptions& options = *parts_->options;
  parts_->began =
      std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  if (options.steps++ == options.fail_at_step) throw DeviceError("the fake device broke");
  if (options.step_milliseconds > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(options.step_milliseconds));
  }

  const int T = static_cast<int>(batch.tokens.size()), N = static_cast<int>(batch.slots.size());
  Check(T >= 1 && T <= options.max_batch_tokens, "number of tokens");
  Check(static_cast<int>(batch.logits_rows.size()) <= options.max_logits_rows, "logits rows");
  Check(static_cast<int>(batch.cu_seqlens.size()) == N + 1 && batch.cu_seqlens[0] == 0 &&
            batch.cu_seqlens[N] == T && static_cast<int>(batch.positions.size()) == N,
        "sizes");
  std::vector<bool> used(pool.total(), false);
  parts_->seen.resize(pool.total());
  parts_->logits.assign(batch.logits_rows.size() * testing::kFakeVocab, 0.0f);
  parts_->hidden.clear();
  size_t next = 0, next_hidden = 0;  // of logits_rows and hidden_rows
  for (int n = 0; n < N; ++n) {
    const int begin = batch.cu_seqlens[n], end = batch.cu_seqlens[n + 1], slot = batch.slots[n];
    Check(end > begin && (n >= batch.num_decode || end == begin + 1), "lengths");
    Check(slot >= 0 && slot < pool.total() && !used[slot], "slots");
    used[slot] = true;
    std::vector<int>& seen = parts_->seen[slot];
    if (batch.positions[n] == 0) seen.clear();
    Check(batch.positions[n] == static_cast<int>(seen.size()), "positions");
    for (int row = begin; row < end; ++row) {
      const int token = batch.tokens[row];
      Check(token >= 0 || batch.sampled != nullptr, "a token that was sampled nowhere");
      seen.push_back(token >= 0 ? token : batch.sampled[-1 - token]);
      const bool poisoned = seen.back() == options.poisoned_token;
      if (next_hidden < batch.hidden_rows.size() && batch.hidden_rows[next_hidden] == row) {
        ++next_hidden;
        for (const float value : testing::FakeHidden(seen)) {
          parts_->hidden.push_back(poisoned ? NAN : value);
        }
      }
      if (next == batch.logits_rows.size() || batch.logits_rows[next] != row) continue;
      float* logits = &parts_->logits[next++ * testing::kFakeVocab];
      const uint32_t hash = testing::HashOf(seen);
      for (int token = 0; token < testing::kFakeVocab; ++token) {
        logits[token] = poisoned ? NAN : testing::LogitOf(hash, token);
      }
    }
  }
  Check(next == batch.logits_rows.size(), "logits rows are not ascending rows");
  Check(next_hidden == batch.hidden_rows.size(), "hidden rows are not ascending rows");
  const auto matrix = [](std::vector<float>& values, size_t rows, int64_t columns) {
    return Matrix{values.data(), DType::kF32, static_cast<int64_t>(rows), columns, columns};
  };
  ForwardResult result = {matrix(parts_->logits, batch.logits_rows.size(), testing::kFakeVocab),
                          matrix(parts_->hidden, batch.hidden_rows.size(), testing::kFakeHidden),
                          &parts_->began};
  result.nears_end = [&options] { return !options.far_from_end; };
  return result;
}

void Model::Prepare(StatePool&, const int*, int, int) {}

const ModelConfig& Model::config() const { return parts_->config; }
Stream& Model::stream() { return parts_->stream; }
int64_t Model::parameters() const { return 0; }
int64_t Model::weight_bytes() const { return 0; }
int64_t Model::workspace_bytes() const { return 0; }
DType Model::dtype() const { return DType::kF32; }

}  // namespace fla
