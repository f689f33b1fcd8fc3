#include "server/validation.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

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

std::string TokenizerLine(const CheckpointReport::TokenizerFacts& tokenizer) {
  const TokenizerOrigin& origin = tokenizer.origin;
  std::string text =
      absl::StrCat(origin.kind, " of ", origin.file, ", ", tokenizer.vocab_size, " tokens");
  if (!origin.prefix.empty()) {
    absl::StrAppend(&text, "; adds ", absl::StrJoin(origin.prefix, " "), " before a text");
  }
  if (!origin.suffix.empty()) {
    absl::StrAppend(&text, origin.prefix.empty() ? "; adds " : ", ",
                    absl::StrJoin(origin.suffix, " "), " after it");
  }
  return text;
}

// "0 (config.json, tokenizer_config.json), 7 (generation_config.json)"
std::string EndTokensLine(const std::vector<CheckpointReport::EndToken>& tokens) {
  if (tokens.empty()) return "none";
  return absl::StrJoin(tokens, ", ", [](std::string* out, const auto& token) {
    absl::StrAppend(out, token.id, " (", absl::StrJoin(token.files, ", "), ")");
  });
}

std::string ChatLine(const std::map<std::string, std::string>& templates) {
  if (templates.empty()) return "no template";
  return absl::StrJoin(templates, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, "template ", entry.first, " of ", entry.second);
  });
}

// What the generation_config.json says, by name; 0.8 as 0.8, not as the f32 next to it.
nlohmann::ordered_json SamplingOf(const GenerationDefaults& defaults) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  const auto add = [&](const char* name, std::optional<float> value) {
    if (value) json[name] = std::strtod(absl::StrCat(*value).c_str(), nullptr);
  };
  add("temperature", defaults.temperature);
  if (defaults.top_k) json["top_k"] = *defaults.top_k;
  add("top_p", defaults.top_p);
  add("min_p", defaults.min_p);
  add("repetition_penalty", defaults.repetition_penalty);
  return json;
}

std::string SamplingLine(const GenerationDefaults& defaults) {
  const auto json = SamplingOf(defaults);
  if (json.empty()) return "no defaults of its own";
  std::string text;
  for (const auto& [name, value] : json.items()) {
    absl::StrAppend(&text, name, " ", absl::StrFormat("%g", value.get<float>()), ", ");
  }
  return text + "of generation_config.json";
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
  if (report.tokenizer) AddLine(text, "tokenizer", TokenizerLine(*report.tokenizer));
  if (report.tokenizer || report.config) {
    AddLine(text, "bos", EndTokensLine(report.bos));
    AddLine(text, "eos", EndTokensLine(report.eos));
    AddLine(text, "chat", ChatLine(report.chat_templates));
  }
  if (report.config) AddLine(text, "sampling", SamplingLine(report.config->generation));
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
                     {"state_bytes_per_slot", report.state_bytes_per_slot}};
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
  json["tokenizer"] = nullptr;
  if (const auto& tokenizer = report.tokenizer) {
    json["tokenizer"] = {{"file", tokenizer->origin.file},
                         {"kind", tokenizer->origin.kind},
                         {"vocab_size", tokenizer->vocab_size},
                         {"adds_before", tokenizer->origin.prefix},
                         {"adds_after", tokenizer->origin.suffix}};
  }
  const auto add_ends = [&](const char* name,
                            const std::vector<CheckpointReport::EndToken>& tokens) {
    json[name] = Json::array();
    for (const auto& token : tokens) {
      json[name].push_back({{"id", token.id}, {"files", token.files}});
    }
  };
  add_ends("bos", report.bos);
  add_ends("eos", report.eos);
  json["chat_templates"] = report.chat_templates;
  json["sampling"] = nullptr;
  if (report.config) json["sampling"] = SamplingOf(report.config->generation);
  json["notes"] = report.notes;
  json["problems"] = report.problems;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace fla
