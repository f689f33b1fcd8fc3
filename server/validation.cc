#include "server/validation.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace fla {
namespace {

std::string Megabytes(int64_t bytes) {
  return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

void AddLine(std::string& text, const char* name, const std::string& value) {
  absl::StrAppendFormat(&text, "  %-12s %s\n", name, value);
}

std::string ModelLine(const ModelConfig& config) {
  const MixerSpec& mixer = config.mixer;
  return absl::StrCat(config.model_type, ": ", config.num_layers, " layers, hidden size ",
                      config.hidden_size, ", ", mixer.heads, " heads of ", mixer.state_k_dim(),
                      " x ", mixer.head_v_dim, ", vocabulary ", config.vocab_size,
                      config.tie_word_embeddings ? ", tied embeddings" : "");
}

std::string StoredLine(const CheckpointReport& report) {
  std::string text;
  for (const auto& [dtype, stored] : report.stored) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", dtype, ": ", stored.tensors, " tensors, ",
                    Megabytes(stored.bytes));
  }
  return text;
}

std::string TokensLine(const CheckpointReport& report) {
  std::string text = absl::StrCat(*report.tokenizer_vocab_size, " tokens");
  if (!report.config) return text;
  if (report.config->bos_token_id >= 0) {
    absl::StrAppend(&text, ", begins with ", report.config->bos_token_id);
  }
  for (const int id : report.config->eos_token_ids) absl::StrAppend(&text, ", ends with ", id);
  return text;
}

}  // namespace

std::string ReportText(const CheckpointReport& report) {
  std::string text =
      absl::StrCat(report.folder.string(),
                   report.problems.empty() ? ": can be served\n" : ": CANNOT be served\n");
  if (report.config) AddLine(text, "model", ModelLine(*report.config));
  if (report.as_f32) {
    AddLine(text, "parameters",
            absl::StrFormat("%.1fM", static_cast<double>(report.as_f32->parameters) / 1e6));
  }
  if (!report.stored.empty()) AddLine(text, "stored", StoredLine(report));
  if (report.as_f32 && report.as_bf16) {
    AddLine(text, "weights",
            absl::StrCat(Megabytes(report.as_bf16->bytes), " as bf16, ",
                         Megabytes(report.as_f32->bytes), " as f32"));
  }
  if (report.config) {
    AddLine(text, "state",
            absl::StrCat(Megabytes(report.state_bytes_per_slot), " a slot in f32, at any length"));
    AddLine(text, "context",
            report.max_position_embeddings
                ? absl::StrCat("no bound; trained on ", *report.max_position_embeddings, " tokens")
                : "no bound");
  }
  if (report.tokenizer_vocab_size) AddLine(text, "tokenizer", TokensLine(report));
  for (const std::string& note : report.notes) AddLine(text, "note", note);
  for (const std::string& problem : report.problems) AddLine(text, "PROBLEM", problem);
  return text;
}

std::string ReportJson(const CheckpointReport& report) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["folder"] = report.folder.string();
  json["servable"] = report.problems.empty();
  json["model"] = nullptr;
  if (const auto& config = report.config) {
    json["model"] = {{"model_type", config->model_type},
                     {"layers", config->num_layers},
                     {"hidden_size", config->hidden_size},
                     {"heads", config->mixer.heads},
                     {"state_k_dim", config->mixer.state_k_dim()},
                     {"head_v_dim", config->mixer.head_v_dim},
                     {"vocab_size", config->vocab_size},
                     {"tied_embeddings", config->tie_word_embeddings},
                     {"bos_token_id", nullptr},
                     {"eos_token_ids", config->eos_token_ids},
                     {"state_bytes_per_slot", report.state_bytes_per_slot}};
    if (config->bos_token_id >= 0) json["model"]["bos_token_id"] = config->bos_token_id;
  }
  json["stored"] = Json::object();
  for (const auto& [dtype, stored] : report.stored) {
    json["stored"][dtype] = {
        {"tensors", stored.tensors}, {"elements", stored.elements}, {"bytes", stored.bytes}};
  }
  json["parameters"] = nullptr;
  json["weight_bytes"] = nullptr;
  if (report.as_f32 && report.as_bf16) {
    json["parameters"] = report.as_f32->parameters;
    json["weight_bytes"] = {{"f32", report.as_f32->bytes}, {"bf16", report.as_bf16->bytes}};
  }
  json["max_position_embeddings"] = nullptr;
  if (report.max_position_embeddings) {
    json["max_position_embeddings"] = *report.max_position_embeddings;
  }
  json["tokenizer_vocab_size"] = nullptr;
  if (report.tokenizer_vocab_size) json["tokenizer_vocab_size"] = *report.tokenizer_vocab_size;
  json["notes"] = report.notes;
  json["problems"] = report.problems;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace fla
