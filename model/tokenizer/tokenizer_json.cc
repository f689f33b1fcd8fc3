// tokenizer.json and tokenizer_config.json, as Hugging Face's tokenizers and transformers write
// them.
#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "model/tokenizer/definition.h"
#include "model/tokenizer/json_components.h"
#include "model/tokenizer/json_fields.h"

namespace fla::tokenizer {
namespace {

std::vector<AddedToken> ReadAddedTokens(const Fields& file, const Definition& definition) {
  const Vocabulary& vocabulary = definition.vocabulary;
  std::vector<AddedToken> tokens;
  if (file.Find("added_tokens") == nullptr) return tokens;
  for (const Json& entry : file.Array("added_tokens")) {
    const Fields fields(entry,
                        file.where + ": added_tokens: entry " + std::to_string(tokens.size()));
    AddedToken token;
    token.text = fields.String("content");
    token.id = fields.Integer("id");
    if (token.id > kMaxTokenId) {
      fields.Fail("id", "at most " + std::to_string(kMaxTokenId), std::to_string(token.id));
    }
    token.special = fields.Bool("special", false);
    token.normalized = fields.Bool("normalized", !token.special);
    token.single_word = fields.Bool("single_word", false);
    token.lstrip = fields.Bool("lstrip", false);
    token.rstrip = fields.Bool("rstrip", false);
    if (token.text.empty()) continue;
    const int id = vocabulary.Find(token.text);
    if (id >= 0) token.id = id;  // the vocabulary's word counts, as in the tokenizers library
    if (id < 0 && token.id < vocabulary.size() && !vocabulary.text(token.id).empty()) {
      fields.Fail("id", "one that is free",
                  std::to_string(token.id) + ", which '" + vocabulary.text(token.id) + "' has");
    }
    token.pattern = token.normalized ? Normalize(definition.normalizers, token.text) : token.text;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

std::vector<std::pair<std::string, int>> ReadBpeVocabulary(const Fields& model) {
  const Json& vocab = model.Get("vocab");
  const Fields fields(vocab, model.where + ": vocab");
  std::vector<std::pair<std::string, int>> tokens;
  tokens.reserve(vocab.size());
  for (const auto& [text, id] : vocab.items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > uint64_t{kMaxTokenId}) {
      fields.Fail("'" + text + "'", "an id from 0 to " + std::to_string(kMaxTokenId), Shown(id));
    }
    tokens.emplace_back(text, id.get<int>());
  }
  return tokens;
}

MergeList ReadMerges(const Fields& model) {
  MergeList list;
  auto& merges = list.pairs;
  const Json& entries = model.Array("merges");
  merges.reserve(entries.size());
  for (const Json& entry : entries) {
    const std::string name = "merges: entry " + std::to_string(merges.size());
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        model.Fail(name, "two tokens with a space between", Shown(entry));
      }
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
               entry[1].is_string()) {
      merges.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
    } else {
      model.Fail(name, "two tokens", Shown(entry));
    }
  }
  return list;
}

BpeOptions ReadBpeOptions(const Fields& model) {
  BpeOptions options;
  const std::string unk = model.StringOr("unk_token", "");
  if (!unk.empty()) options.unk_token = unk;
  options.continuing_subword_prefix = model.StringOr("continuing_subword_prefix", "");
  options.end_of_word_suffix = model.StringOr("end_of_word_suffix", "");
  options.fuse_unk = model.Bool("fuse_unk", false);
  options.byte_fallback = model.Bool("byte_fallback", false);
  options.ignore_merges = model.Bool("ignore_merges", false);
  const Json* dropout = model.Find("dropout");
  if (dropout != nullptr && *dropout != 0) {
    model.Fail("dropout", "none: it makes tokens random", Shown(*dropout));
  }
  return options;
}

void ReadUnigram(const Fields& model, Definition* definition) {
  std::vector<std::pair<std::string, int>> tokens;
  std::vector<double> scores;
  for (const Json& entry : model.Array("vocab")) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      model.Fail("vocab: entry " + std::to_string(scores.size()), "a token and its score",
                 Shown(entry));
    }
    tokens.emplace_back(entry[0].get<std::string>(), static_cast<int>(scores.size()));
    scores.push_back(entry[1].get<double>());
  }
  const int unk_id = model.Find("unk_id") == nullptr ? -1 : model.Integer("unk_id");
  definition->vocabulary = Vocabulary(std::move(tokens));
  definition->model = MakeUnigram(definition->vocabulary, std::move(scores), unk_id,
                                  model.Bool("byte_fallback", false));
}

void ReadModel(const Fields& model, bool byte_level, Definition* definition) {
  // Files of the first versions do not name the type.
  const std::string type =
      model.StringOr("type", model.Find("merges") != nullptr ? "BPE" : "Unigram");
  if (type != "BPE" && type != "Unigram") {
    model.Fail("type", "BPE or Unigram", "'" + type + "', which is not supported");
  }
  try {
    if (type == "Unigram") return ReadUnigram(model, definition);
    definition->vocabulary = Vocabulary(ReadBpeVocabulary(model));
    definition->model =
        MakeBpe(definition->vocabulary, ReadMerges(model), ReadBpeOptions(model), byte_level);
  } catch (const std::runtime_error& e) {
    if (std::string_view(e.what()).starts_with(model.where)) throw;
    throw std::runtime_error(model.where + ": " + e.what());
  }
}

}  // namespace

Definition ReadTokenizerJson(const std::filesystem::path& path) {
  const Json json = ReadJsonFile(path);
  const Fields file(json, path.string());
  Definition definition;
  definition.normalizers = ReadNormalizers(file.Find("normalizer"), file.where + ": normalizer");
  definition.pre_tokenizers =
      ReadPreTokenizers(file.Find("pre_tokenizer"), file.where + ": pre_tokenizer");
  definition.decode_steps = ReadDecodeSteps(file.Find("decoder"), file.where + ": decoder");

  auto& steps = definition.pre_tokenizers;
  const auto maps_bytes = [](const PreTokenizer& step) {
    const auto* words = std::get_if<ByteLevelWords>(&step);
    return words != nullptr && words->map_bytes;
  };
  const bool byte_level = !steps.empty() && maps_bytes(steps.back()) &&
                          std::count_if(steps.begin(), steps.end(), maps_bytes) == 1;
  ReadModel(Fields(file.Get("model"), file.where + ": model"), byte_level, &definition);
  const Bpe* bpe = std::get_if<Bpe>(&definition.model);
  if (bpe != nullptr && bpe->bytes_in) steps.pop_back();  // the model maps the bytes

  definition.added_tokens = ReadAddedTokens(file, definition);
  ReadPostProcessor(file.Find("post_processor"), file.where + ": post_processor",
                    &definition.prefix, &definition.suffix);
  return definition;
}

Settings ReadTokenizerConfig(const std::filesystem::path& path) {
  const Json json = ReadJsonFile(path);
  const Fields file(json, path.string());
  // A token is its text, or an object with its text and options.
  const auto token = [&](const char* field) {
    const Json* value = file.Find(field);
    if (value == nullptr || !value->is_object()) return file.StringOr(field, "");
    return Fields(*value, file.where + ": " + field).String("content");
  };
  Settings settings;
  settings.bos_token = token("bos_token");
  settings.eos_token = token("eos_token");
  settings.add_bos_token = file.Bool("add_bos_token", false);
  settings.add_eos_token = file.Bool("add_eos_token", false);
  settings.tokenizer_class = file.StringOr("tokenizer_class", "");
  settings.says_add_bos_token = file.Find("add_bos_token") != nullptr;
  return settings;
}

}  // namespace fla::tokenizer
