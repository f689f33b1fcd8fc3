// What a choice of dtypes and of state_replay does to a model's text: the loss of a text that it
// has not seen, and the greedy continuations of prompts.
//
//   model_loss CHECKPOINT TEXT [--device cpu] [--dtype f32] [--weight-dtype fp8_e4m3]
//              [--state-dtype f32] [--state-replay 0] [--windows 48] [--window 1024]
//              [--prompts demo/eval.json]
//
// The loss, in nats a token, is the mean over the first `windows` windows of `window` tokens, each
// from an empty state and predicting one token on, as demo/README.md says: once with each window
// as one prompt, once token by token, all windows beside each other, so that every state has gone
// through its format a thousand times. Of each prompt ("references" in the file: "prompt" and
// "greedy") it prints 64 greedy tokens and up to where their text agrees with the one given; they
// are made beside each other by batches large enough to leave updates beside their states.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "bench/checkpoint_options.h"
#include "model/model.h"
#include "model/state_pool.h"
#include "model/tokenizer.h"

namespace {

using fla::Batch;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

int Largest(const float* logits, int vocab) {
  return static_cast<int>(std::max_element(logits, logits + vocab) - logits);
}

class Evaluation {
 public:
  Evaluation(fla::Model& model, int slots, int max_logits_rows, fla::StateFormat states)
      : model_(model),
        pool_(model.stream(), model.config(), slots, states),
        sampled_(model.stream().device(), slots * sizeof(int)) {
    model.Prepare(pool_, sampled_.as<int>(), slots, max_logits_rows);
  }

  double LossOfPrompts(const std::vector<int>& ids, int windows, int window) {
    double loss = 0;
    for (int i = 0; i < windows; ++i) {
      const int slot = pool_.Acquire(model_.stream());
      Batch batch{
          {ids.begin() + i * window, ids.begin() + (i + 1) * window}, {slot}, {0, window}, {0}};
      for (int row = 0; row < window; ++row) batch.logits_rows.push_back(row);
      Run(batch);
      for (int row = 0; row < window; ++row) loss += LossOf(row, ids[i * window + row + 1]);
      pool_.Release(slot);
    }
    return loss / windows / window;
  }

  double LossOfSteps(const std::vector<int>& ids, int windows, int window) {
    const std::vector<int> slots = Acquire(windows);
    double loss = 0;
    for (int step = 0; step < window; ++step) {
      std::vector<int> tokens(windows);
      for (int i = 0; i < windows; ++i) tokens[i] = ids[i * window + step];
      Step(slots, std::move(tokens), std::vector<int>(windows, step));
      for (int i = 0; i < windows; ++i) loss += LossOf(i, ids[i * window + step + 1]);
    }
    for (const int slot : slots) pool_.Release(slot);
    return loss / windows / window;
  }

  // `count` tokens after each prompt.
  std::vector<std::vector<int>> Greedy(const std::vector<std::vector<int>>& prompts, int count) {
    const std::vector<int> slots = Acquire(static_cast<int>(prompts.size()));
    std::vector<int> next, positions;
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto tokens = static_cast<int>(prompts[i].size());
      Run({prompts[i], {slots[i]}, {0, tokens}, {0}, /*num_decode=*/0, {tokens - 1}});
      next.push_back(Largest(logits_.data(), vocab()));
      positions.push_back(tokens);
    }
    std::vector<std::vector<int>> texts(prompts.size());
    for (int step = 0;; ++step) {
      for (size_t i = 0; i < next.size(); ++i) texts[i].push_back(next[i]);
      if (step + 1 == count) break;
      Step(slots, next, positions);
      for (size_t i = 0; i < next.size(); ++i) {
        next[i] = Largest(logits_.data() + i * vocab(), vocab());
        ++positions[i];
      }
    }
    for (const int slot : slots) pool_.Release(slot);
    return texts;
  }

 private:
  int vocab() const { return model_.config().vocab_size; }

  std::vector<int> Acquire(int count) {
    std::vector<int> slots(count);
    for (int& slot : slots) slot = pool_.Acquire(model_.stream());
    return slots;
  }

  void Step(const std::vector<int>& slots, std::vector<int> tokens, std::vector<int> positions) {
    Batch batch{std::move(tokens), slots, {0}, std::move(positions)};
    batch.num_decode = static_cast<int>(slots.size());
    for (int i = 0; i < batch.num_decode; ++i) {
      batch.cu_seqlens.push_back(i + 1);
      batch.logits_rows.push_back(i);
    }
    Run(batch);
  }

  void Run(const Batch& batch) {
    const fla::Matrix logits = model_.Forward(batch, pool_).logits;
    logits_.resize(static_cast<size_t>(logits.rows * logits.cols));
    model_.stream().CopyToHost(logits_.data(), logits.data, logits_.size() * sizeof(float));
    model_.stream().Synchronize();
  }

  double LossOf(int row, int token) const {
    const float* const begin = logits_.data() + static_cast<size_t>(row) * vocab();
    const float largest = *std::max_element(begin, begin + vocab());
    double sum = 0;
    for (int i = 0; i < vocab(); ++i) sum += std::exp(begin[i] - largest);
    return std::log(sum) - (begin[token] - largest);
  }

  fla::Model& model_;
  fla::StatePool pool_;
  fla::Buffer sampled_;
  std::vector<float> logits_;  // of the last batch
};

void PrintGreedy(Evaluation& evaluation, const fla::Tokenizer& tokenizer, const std::string& path,
                 int slots) {
  constexpr int kTokens = 64;
  const auto references = nlohmann::json::parse(ReadFile(path)).at("references");
  std::vector<std::vector<int>> prompts;
  for (int i = 0; i < slots; ++i) {
    const std::string prompt = references.at(i % references.size()).at("prompt");
    prompts.push_back(tokenizer.Encode(prompt));
  }
  const std::vector<std::vector<int>> texts = evaluation.Greedy(prompts, kTokens);
  for (size_t i = 0; i < references.size(); ++i) {
    const std::string wanted = references[i].at("greedy"), greedy = tokenizer.Decode(texts[i]);
    const size_t shorter = std::min(wanted.size(), greedy.size());
    const auto differs =
        std::mismatch(wanted.begin(), wanted.begin() + shorter, greedy.begin()).first;
    std::printf("  the first %td of %zu bytes agree: %s\n", differs - wanted.begin(), wanted.size(),
                nlohmann::json(greedy).dump().c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Held-out loss and greedy text of a checkpoint");
  fla::bench::CheckpointOptions options;
  options.AddTo(app);
  std::string text, prompts;
  int windows = 48, window = 1024;
  app.add_option("text", text, "The text")->required();
  app.add_option("--windows", windows, "Windows of the text")->check(CLI::Range(1, 4096));
  app.add_option("--window", window, "Tokens of a window")->check(CLI::Range(1, 1 << 20));
  app.add_option("--prompts", prompts, "A JSON file with prompts and their continuations");
  CLI11_PARSE(app, argc, argv);
  try {
    const int max_batch_tokens = std::max(window, windows);
    const auto model = fla::Model::Load(options.ForLoad(max_batch_tokens));
    const auto tokenizer = fla::Tokenizer::Load(options.path);
    const std::vector<int> ids = tokenizer->Encode(ReadFile(text), /*add_special_tokens=*/false);
    const int64_t wanted = int64_t{windows} * window + 1;
    if (static_cast<int64_t>(ids.size()) < wanted) {
      throw std::runtime_error(text + ": wanted " + std::to_string(wanted) + " tokens, got " +
                               std::to_string(ids.size()));
    }
    Evaluation evaluation(*model, windows, max_batch_tokens, options.states());
    const double by_prompts = evaluation.LossOfPrompts(ids, windows, window);
    const double by_steps = evaluation.LossOfSteps(ids, windows, window);
    std::printf("%s: loss %.5f by prompts, %.5f by steps\n", options.Describe().c_str(), by_prompts,
                by_steps);
    if (!prompts.empty()) PrintGreedy(evaluation, *tokenizer, prompts, windows);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_loss: %s\n", error.what());
    return 1;
  }
  return 0;
}
