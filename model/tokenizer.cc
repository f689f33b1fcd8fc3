#include "model/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <variant>

#include "model/tokenizer/definition.h"

namespace fla {

using tokenizer::AddedToken;
using tokenizer::AddedTokenSet;
using tokenizer::Definition;
using tokenizer::TextPart;

namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr size_t kMaxIdleScratch = 16;
constexpr char kJsonFile[] = "tokenizer.json";
constexpr char kSentencePieceFile[] = "tokenizer.model";

using Scratch = std::variant<std::monostate, tokenizer::BpeScratch, tokenizer::UnigramScratch>;

std::unique_ptr<Scratch> MakeScratch(const Definition& definition) {
  if (std::holds_alternative<tokenizer::Bpe>(definition.model)) {
    return std::make_unique<Scratch>(std::in_place_type<tokenizer::BpeScratch>);
  }
  if (std::holds_alternative<tokenizer::Unigram>(definition.model)) {
    return std::make_unique<Scratch>(std::in_place_type<tokenizer::UnigramScratch>);
  }
  return std::make_unique<Scratch>();
}

// Thread safety: any number of threads.
class ScratchPool {
 public:
  // Memory for one call, with the words that earlier calls met; from `make` where none is idle.
  template <typename Make>
  std::unique_ptr<Scratch> Take(const Make& make) {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<Scratch> scratch = std::move(idle_.back());
        idle_.pop_back();
        return scratch;
      }
    }
    return make();
  }

  void GiveBack(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard lock(mutex_);
    if (idle_.size() < kMaxIdleScratch) idle_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> idle_;
};

struct Token {
  std::string text;      // as the decoder takes it
  bool present = false;  // ids may have holes
  bool special = false;
};

}  // namespace

struct Tokenizer::Parts {
  Definition definition;
  std::vector<Token> tokens;  // by id
  AddedTokenSet raw_tokens;   // looked for before the text is normalised
  AddedTokenSet normalized_tokens;
  int bos = -1, eos = -1;
  std::string file, bos_file, eos_file;  // see TokenizerOrigin
  mutable ScratchPool scratch;

  void EncodeWord(std::string_view word, Scratch* memory, std::vector<int>* ids) const {
    if (const auto* bpe = std::get_if<tokenizer::Bpe>(&definition.model)) {
      EncodeBpe(*bpe, definition.vocabulary, word, &std::get<tokenizer::BpeScratch>(*memory), ids);
    } else if (const auto* unigram = std::get_if<tokenizer::Unigram>(&definition.model)) {
      EncodeUnigram(*unigram, definition.vocabulary, word,
                    &std::get<tokenizer::UnigramScratch>(*memory), ids);
    } else if (const auto* pieces = std::get_if<tokenizer::SentencePiece>(&definition.model)) {
      pieces->Encode(word, ids);
    } else {
      EncodeLongestMatch(std::get<tokenizer::LongestMatch>(definition.model), word, ids);
    }
  }

  // A text between two added tokens. `at_start`: nothing stands before it.
  void EncodeText(std::string_view text, bool at_start, Scratch* memory,
                  std::vector<int>* ids) const {
    std::string normalized;
    if (!definition.normalizers.empty()) {
      normalized = Normalize(definition.normalizers, text);
      text = normalized;
    }
    ForEachTextPart(normalized_tokens, text, [&](TextPart part) {
      if (part.id >= 0) {
        ids->push_back(part.id);
        return;
      }
      PreTokenize(definition.pre_tokenizers,
                  text.substr(part.span.begin, part.span.end - part.span.begin),
                  at_start && part.span.begin == 0,
                  [&](std::string_view word) { EncodeWord(word, memory, ids); });
    });
  }

  const Token& token(int id) const {
    if (id < 0 || static_cast<size_t>(id) >= tokens.size()) {
      throw std::out_of_range("token id " + std::to_string(id) + ": wanted 0 to " +
                              std::to_string(tokens.size() - 1));
    }
    return tokens[id];
  }
};

namespace {

// The id of a token's text, as tokenizer_config.json names it; -1 where there is none.
int FindToken(const Definition& definition, const std::string& text) {
  for (const AddedToken& token : definition.added_tokens) {
    if (token.text == text) return token.id;
  }
  return text.empty() ? -1 : definition.vocabulary.Find(text);
}

void AddEnds(const tokenizer::Settings& settings, int bos, int eos, const std::string& file,
             Definition* definition) {
  const auto check = [&](bool add, const char* name, const std::string& text, int id) {
    if (add && id < 0) {
      throw std::runtime_error(file + ": " + name + ": wanted a token of the vocabulary, got '" +
                               text + "'");
    }
    return add;
  };
  std::vector<int>& prefix = definition->prefix;
  std::vector<int>& suffix = definition->suffix;
  if (check(settings.add_bos_token, "bos_token", settings.bos_token, bos) &&
      (prefix.empty() || prefix.front() != bos)) {
    prefix.insert(prefix.begin(), bos);
  }
  if (check(settings.add_eos_token, "eos_token", settings.eos_token, eos) &&
      (suffix.empty() || suffix.back() != eos)) {
    suffix.push_back(eos);
  }
}

std::string KindOf(const Definition& definition) {
  if (const auto* bpe = std::get_if<tokenizer::Bpe>(&definition.model)) {
    return bpe->bytes_in                ? "byte-level BPE"
           : bpe->options.byte_fallback ? "BPE with byte fallback"
                                        : "BPE";
  }
  if (std::holds_alternative<tokenizer::Unigram>(definition.model)) return "Unigram";
  if (const auto* pieces = std::get_if<tokenizer::SentencePiece>(&definition.model)) {
    return "sentencepiece " + pieces->type_name();
  }
  return "longest match";
}

// The file of a folder that defines its tokenizer: of several, the first in this order; empty if
// there is none.
std::filesystem::path FindFile(const std::filesystem::path& folder) {
  for (const char* name : {kJsonFile, kSentencePieceFile}) {
    if (std::filesystem::exists(folder / name)) return folder / name;
  }
  std::error_code error;
  std::filesystem::path found;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("rwkv_vocab") || !name.ends_with(".txt")) continue;
    if (found.empty() || entry.path() < found) found = entry.path();
  }
  return found;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::Load(const std::filesystem::path& folder) {
  const std::filesystem::path file = FindFile(folder);
  if (file.empty()) {
    throw std::runtime_error(folder.string() + ": tokenizer: wanted " + kJsonFile + ", " +
                             kSentencePieceFile + " or rwkv_vocab*.txt, got none");
  }
  const std::filesystem::path config = folder / "tokenizer_config.json";
  auto parts = std::make_unique<Parts>();
  Definition& definition = parts->definition;
  definition = file.filename() == kJsonFile            ? tokenizer::ReadTokenizerJson(file)
               : file.filename() == kSentencePieceFile ? tokenizer::ReadSentencePiece(file)
                                                       : tokenizer::ReadRwkvVocabulary(file);

  const tokenizer::Vocabulary& vocabulary = definition.vocabulary;
  int largest = vocabulary.size() - 1;
  for (const AddedToken& token : definition.added_tokens) largest = std::max(largest, token.id);
  if (largest < 0) throw std::runtime_error(file.string() + ": wanted a vocabulary, got none");
  parts->tokens.resize(largest + 1);
  for (int id = 0; id < vocabulary.size(); ++id) {
    parts->tokens[id] = {vocabulary.text(id), !vocabulary.text(id).empty(), false};
  }
  for (const AddedToken& token : definition.added_tokens) {
    parts->tokens[token.id] = {token.pattern, true, token.special};
    Insert(token, token.normalized ? &parts->normalized_tokens : &parts->raw_tokens);
  }
  parts->file = file.filename().string();
  parts->bos = definition.bos;
  parts->eos = definition.eos;
  parts->bos_file = parts->eos_file = parts->file;
  if (std::filesystem::exists(config)) {
    tokenizer::Settings settings = tokenizer::ReadTokenizerConfig(config);
    if (!settings.bos_token.empty()) {
      parts->bos = FindToken(definition, settings.bos_token);
      parts->bos_file = config.filename().string();
    }
    if (!settings.eos_token.empty()) {
      parts->eos = FindToken(definition, settings.eos_token);
      parts->eos_file = config.filename().string();
    }
    // transformers' class for Llama's tokenizer.model adds the token unless told not to.
    if (file.filename() == kSentencePieceFile && settings.tokenizer_class == "LlamaTokenizer" &&
        !settings.says_add_bos_token) {
      settings.add_bos_token = true;
    }
    AddEnds(settings, parts->bos, parts->eos, config.string(), &definition);
  }
  for (const auto* ends : {&definition.prefix, &definition.suffix}) {
    for (const int id : *ends) {
      if (id > largest) {
        throw std::runtime_error(file.string() + ": post_processor: wanted ids up to " +
                                 std::to_string(largest) + ", got " + std::to_string(id));
      }
    }
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(parts)));
}

bool Tokenizer::IsIn(const std::filesystem::path& folder) { return !FindFile(folder).empty(); }

std::unique_ptr<Tokenizer> Tokenizer::None() {
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::make_unique<Parts>()));
}

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

std::vector<int> Tokenizer::Encode(std::string_view text, bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes) throw std::invalid_argument("text: wanted at most 1 GiB");
  if (!IsValidUtf8(text)) throw std::invalid_argument("text: wanted UTF-8, got other bytes");
  if (parts_->tokens.empty()) throw std::runtime_error("a checkpoint without a tokenizer");
  const Definition& definition = parts_->definition;
  std::unique_ptr<Scratch> memory = parts_->scratch.Take([&] { return MakeScratch(definition); });
  std::vector<int> ids;
  if (add_special_tokens) ids = definition.prefix;
  ForEachTextPart(parts_->raw_tokens, text, [&](TextPart part) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else {
      parts_->EncodeText(text.substr(part.span.begin, part.span.end - part.span.begin),
                         part.span.begin == 0, memory.get(), &ids);
    }
  });
  if (add_special_tokens) {
    ids.insert(ids.end(), definition.suffix.begin(), definition.suffix.end());
  }
  parts_->scratch.GiveBack(std::move(memory));
  return ids;
}

std::string Tokenizer::Decode(const std::vector<int>& ids, bool skip_special_tokens) const {
  const auto& steps = parts_->definition.decode_steps;
  std::vector<tokenizer::DecodeState> states(steps.size());
  std::string text;
  for (const int id : ids) {
    const Token& token = parts_->token(id);
    if (!token.present || (skip_special_tokens && token.special)) continue;
    tokenizer::Decode(steps, states, token.text, &text);
  }
  FlushDecode(steps, states, &text);
  return text;
}

std::string Tokenizer::TokenBytes(int id) const {
  const Token& token = parts_->token(id);
  if (token.special) return token.text;
  return BytesOfToken(parts_->definition.decode_steps, token.text);
}

bool Tokenizer::IsSpecial(int id) const { return parts_->token(id).special; }
int Tokenizer::vocab_size() const { return static_cast<int>(parts_->tokens.size()); }
int Tokenizer::bos_token_id() const { return parts_->bos; }
int Tokenizer::eos_token_id() const { return parts_->eos; }

TokenizerOrigin Tokenizer::origin() const {
  const Definition& definition = parts_->definition;
  return {parts_->file,
          KindOf(definition),
          parts_->bos < 0 ? "" : parts_->bos_file,
          parts_->eos < 0 ? "" : parts_->eos_file,
          definition.prefix,
          definition.suffix};
}

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer)
    : tokenizer_(&tokenizer), states_(tokenizer.parts_->definition.decode_steps.size()) {}
IncrementalDecoder::IncrementalDecoder(const IncrementalDecoder&) = default;
IncrementalDecoder::IncrementalDecoder(IncrementalDecoder&&) noexcept = default;
IncrementalDecoder& IncrementalDecoder::operator=(const IncrementalDecoder&) = default;
IncrementalDecoder& IncrementalDecoder::operator=(IncrementalDecoder&&) noexcept = default;
IncrementalDecoder::~IncrementalDecoder() = default;

std::string IncrementalDecoder::Append(int id) {
  const Token& token = tokenizer_->parts_->token(id);
  std::string text;
  if (token.present && !token.special) {
    tokenizer::Decode(tokenizer_->parts_->definition.decode_steps, states_, token.text, &text);
  }
  return text;
}

std::string IncrementalDecoder::Finish() {
  std::string text;
  FlushDecode(tokenizer_->parts_->definition.decode_steps, states_, &text);
  return text;
}

}  // namespace fla
