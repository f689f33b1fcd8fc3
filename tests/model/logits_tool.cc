// A model's logits for scripts, by every way that leads to them.
//
//   logits_tool FOLDER DEVICE DTYPE SEED
//
// Reads sequences on stdin, each as an int32 count and its token ids (int32, the machine's byte
// order), up to the end. Writes the f32 logits of all tokens of all sequences, three times:
//   by one prefill of all sequences, packed;
//   by steps of one token of each sequence;
//   by pieces of random lengths (SEED), prompts and decode rows in the same batches.
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/model.h"
#include "tests/testing/model_runner.h"

namespace fla {
namespace {

using Sequences = std::vector<std::vector<int>>;

Sequences ReadSequences() {
  Sequences sequences;
  int32_t count = 0;
  while (std::cin.read(reinterpret_cast<char*>(&count), sizeof count)) {
    std::vector<int32_t> ids(static_cast<size_t>(count));
    std::cin.read(reinterpret_cast<char*>(ids.data()),
                  static_cast<std::streamsize>(ids.size() * sizeof(int32_t)));
    if (!std::cin) throw std::runtime_error("stdin: wanted " + std::to_string(count) + " ids");
    sequences.emplace_back(ids.begin(), ids.end());
  }
  return sequences;
}

// Feeds each sequence `length()` tokens a batch, single tokens first, as the engine does.
void WriteLogits(Model& model, const Sequences& sequences, const std::function<int()>& length) {
  const size_t vocab = static_cast<size_t>(model.config().vocab_size);
  StatePool pool(model.stream(), model.config(), static_cast<int>(sequences.size()));
  std::vector<int> slots;
  std::vector<size_t> at(sequences.size(), 0);
  std::vector<std::vector<float>> logits(sequences.size());
  for (size_t n = 0; n < sequences.size(); ++n) slots.push_back(pool.Acquire(model.stream()));
  for (bool more = true; more;) {
    std::vector<testing::Piece> singles, prompts;
    std::vector<size_t> single_owners, owners;
    for (size_t n = 0; n < sequences.size(); ++n) {
      const size_t end = std::min(sequences[n].size(), at[n] + static_cast<size_t>(length()));
      if (end == at[n]) continue;
      const bool single = end == at[n] + 1;
      (single ? singles : prompts)
          .push_back({slots[n],
                      static_cast<int>(at[n]),
                      {sequences[n].begin() + static_cast<int64_t>(at[n]),
                       sequences[n].begin() + static_cast<int64_t>(end)}});
      (single ? single_owners : owners).push_back(n);
      at[n] = end;
    }
    singles.insert(singles.end(), prompts.begin(), prompts.end());
    single_owners.insert(single_owners.end(), owners.begin(), owners.end());
    if (!singles.empty()) {
      const std::vector<float> rows = testing::AllLogits(model, pool, singles);
      size_t row = 0;
      for (size_t i = 0; i < singles.size(); row += singles[i++].tokens.size()) {
        const auto begin = rows.begin() + static_cast<int64_t>(row * vocab);
        logits[single_owners[i]].insert(
            logits[single_owners[i]].end(), begin,
            begin + static_cast<int64_t>(singles[i].tokens.size() * vocab));
      }
    }
    more = false;
    for (size_t n = 0; n < sequences.size(); ++n) more = more || at[n] < sequences[n].size();
  }
  for (const std::vector<float>& of_sequence : logits) {
    std::cout.write(reinterpret_cast<const char*>(of_sequence.data()),
                    static_cast<std::streamsize>(of_sequence.size() * sizeof(float)));
  }
}

void Run(const std::string& folder, const std::string& device, DType dtype, unsigned seed) {
  const Sequences sequences = ReadSequences();
  int tokens = 0;
  for (const std::vector<int>& ids : sequences) tokens += static_cast<int>(ids.size());
  const auto model = Model::Load({.path = folder,
                                  .device = ParseDevice(device),
                                  .dtype = dtype,
                                  .max_batch_tokens = std::max(tokens, 1)});
  WriteLogits(*model, sequences, [&] { return tokens; });
  WriteLogits(*model, sequences, [] { return 1; });
  std::mt19937 random(seed);
  WriteLogits(*model, sequences, [&] {
    const int most[] = {1, 3, 40, 300};
    return static_cast<int>(random() % static_cast<unsigned>(most[random() % 4]) + random() % 2);
  });
}

}  // namespace
}  // namespace fla

int main(int argc, char** argv) {
  if (argc != 5) {
    std::cerr << "usage: logits_tool FOLDER DEVICE f32|bf16 SEED\n";
    return 2;
  }
  try {
    fla::Run(argv[1], argv[2],
             std::string(argv[3]) == "bf16" ? fla::DType::kBF16 : fla::DType::kF32,
             static_cast<unsigned>(std::atoi(argv[4])));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
