#include "model/checkpoint_report.h"

#include <algorithm>
#include <stdexcept>

#include "model/chat/chat_templates.h"
#include "model/checkpoint_layout.h"
#include "model/state_pool.h"

namespace fla {
namespace {

// Runs `look`; what it throws is a problem.
template <typename Look>
void Note(std::vector<std::string>& problems, Look&& look) {
  try {
    look();
  } catch (const std::exception& error) {
    // Two of them may read one file.
    if (std::find(problems.begin(), problems.end(), error.what()) == problems.end()) {
      problems.emplace_back(error.what());
    }
  }
}

void LookAtTensors(bool whole_config, CheckpointReport& report) {
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
  if (!whole_config) return;
  Note(report.problems, [&] {
    AdaptLayout(*report.config, *checkpoint);
    std::vector<std::string> same;
    report.as_f32 =
        Model::CheckWeights(*report.config, *checkpoint, DType::kF32, {}, report.problems);
    report.as_bf16 = Model::CheckWeights(*report.config, *checkpoint, DType::kBF16, {}, same);
  });
}

void AddEnd(std::vector<CheckpointReport::EndToken>& tokens, int id, const std::string& file) {
  if (id < 0) return;
  auto it = std::find_if(tokens.begin(), tokens.end(), [&](const auto& t) { return t.id == id; });
  if (it == tokens.end()) it = tokens.insert(tokens.end(), {id, {}});
  it->files.push_back(file);
}

void LookAtTokenizer(CheckpointReport& report) {
  if (report.config && report.config->embed_dim > 0 && !Tokenizer::IsIn(report.folder)) {
    report.notes.push_back("there is no tokenizer: requests bring token ids or vectors");
    return;
  }
  Note(report.problems, [&] {
    const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::Load(report.folder);
    const int vocab = tokenizer->vocab_size();
    report.tokenizer = {tokenizer->origin(), vocab};
    AddEnd(report.bos, tokenizer->bos_token_id(), report.tokenizer->origin.bos_file);
    AddEnd(report.eos, tokenizer->eos_token_id(), report.tokenizer->origin.eos_file);
    if (report.config && vocab > report.config->vocab_size) {
      report.notes.push_back("the tokenizer has " + std::to_string(vocab) + " tokens, the model " +
                             std::to_string(report.config->vocab_size) +
                             ": a prompt with one of the others is refused");
    }
  });
}

void LookAtChatTemplates(CheckpointReport& report) {
  Note(report.problems, [&] {
    const std::unique_ptr<chat::ChatTemplates> templates = chat::ChatTemplates::Load(report.folder);
    for (const auto& [name, file] : templates->files()) {
      report.chat_templates[name] =
          std::filesystem::path(file).lexically_relative(report.folder).string();
    }
    if (!templates->problem().empty()) report.notes.push_back(templates->problem());
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
    AddEnd(report.bos, report.config->bos_token_id, "config.json");
    for (const int id : findings.eos_of_config) AddEnd(report.eos, id, "config.json");
    for (const int id : findings.eos_of_generation) {
      AddEnd(report.eos, id, "generation_config.json");
    }
    report.state_bytes_per_slot = StateBytesPerSlot(*report.config, StateFormat());
  }
  LookAtTensors(findings.whole, report);
  // A model of vectors alone has no tokens.
  if (!report.config || report.config->vocab_size > 0) LookAtTokenizer(report);
  LookAtChatTemplates(report);
  return report;
}

}  // namespace fla
