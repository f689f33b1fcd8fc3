#include "model/checkpoint_report.h"

#include <stdexcept>

#include "model/checkpoint_layout.h"
#include "model/state_pool.h"
#include "model/tokenizer.h"

namespace fla {
namespace {

// Runs `look`; what it throws is a problem.
template <typename Look>
void Note(std::vector<std::string>& problems, Look&& look) {
  try {
    look();
  } catch (const std::exception& error) {
    problems.emplace_back(error.what());
  }
}

void LookAtTensors(CheckpointReport& report) {
  std::optional<Checkpoint> checkpoint;
  Note(report.problems, [&] { checkpoint = Checkpoint::Open(report.folder); });
  if (!checkpoint) return;
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    CheckpointReport::Stored& stored = report.stored[NameOf(tensor.dtype)];
    ++stored.tensors;
    stored.elements += tensor.elements;
    stored.bytes += tensor.bytes();
  }
  // Tensors of another shape than a broken config's defaults would say are no news.
  if (!report.config || !report.problems.empty()) return;
  Note(report.problems, [&] {
    AdaptLayout(*report.config, *checkpoint);
    std::vector<std::string> same;
    report.as_f32 = Model::CheckWeights(*report.config, *checkpoint, DType::kF32, report.problems);
    report.as_bf16 = Model::CheckWeights(*report.config, *checkpoint, DType::kBF16, same);
  });
}

void LookAtTokenizer(CheckpointReport& report) {
  if (report.config && report.config->embed_dim > 0 && !Tokenizer::IsIn(report.folder)) {
    report.notes.push_back("there is no tokenizer: requests bring token ids or vectors");
    return;
  }
  Note(report.problems, [&] {
    const int vocab = Tokenizer::Load(report.folder)->vocab_size();
    report.tokenizer_vocab_size = vocab;
    if (report.config && vocab > report.config->vocab_size) {
      report.notes.push_back("the tokenizer has " + std::to_string(vocab) + " tokens, the model " +
                             std::to_string(report.config->vocab_size) +
                             ": a prompt with one of the others is refused");
    }
  });
}

}  // namespace

CheckpointReport ExamineCheckpoint(const std::filesystem::path& folder) {
  CheckpointReport report;
  report.folder = folder;
  ConfigFindings findings = ExamineModelConfig(folder);
  report.problems = std::move(findings.problems);
  report.config = std::move(findings.config);
  report.max_position_embeddings = findings.max_position_embeddings;
  for (const std::string& key : findings.unknown_keys) {
    report.notes.push_back("config.json: " + key.substr(0, 80) + " is not known here and ignored");
  }
  if (report.config) {
    report.state_bytes_per_slot = StateBytesPerSlot(*report.config, DType::kF32);
  }
  LookAtTensors(report);
  // A model of vectors alone has no tokens.
  if (!report.config || report.config->vocab_size > 0) LookAtTokenizer(report);
  return report;
}

}  // namespace fla
