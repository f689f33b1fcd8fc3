#include "model/tokenizer/sentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>

#include "model/tokenizer/definition.h"
#include "model/tokenizer/sentencepiece_file.h"

// Exported by the library since 0.1.9, but not in its header.
namespace sentencepiece::logging {
[[gnu::weak]] void SetMinLogLevel(int level);
}

namespace fla::tokenizer {
namespace {

// The largest in use, of 262 thousand pieces, has 5 MB. Of 8 MiB of the worst pieces the library
// builds its trie in 7 s and 190 MB.
constexpr size_t kMaxFileBytes = size_t{8} << 20;
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581, which stands for the space
constexpr int kFatal = 3;

std::string ReadFile(const std::filesystem::path& file) {
  std::error_code error;
  const auto size = std::filesystem::file_size(file, error);
  if (error) throw std::runtime_error("wanted a readable file, got: " + error.message());
  if (size > kMaxFileBytes) {
    throw std::runtime_error("size: wanted at most " + std::to_string(kMaxFileBytes) +
                             " bytes, got " + std::to_string(size));
  }
  std::string bytes(size, '\0');
  std::ifstream in(file, std::ios::binary);
  if (!in.read(bytes.data(), static_cast<std::streamsize>(size))) {
    throw std::runtime_error("cannot be read");
  }
  return bytes;
}

std::vector<DecodeStep> DecodeStepsOf(const SentencePieceFile& file) {
  std::vector<DecodeStep> steps;
  if (file.remove_extra_whitespaces || file.add_dummy_prefix) {
    steps.push_back(DropFirstSpace{std::string(kSpace), file.remove_extra_whitespaces});
  }
  steps.insert(steps.end(),
               {ReplaceAll{std::string(kSpace), " "}, DecodeByteFallback{}, FuseTokens{}});
  return steps;
}

Definition DefinitionOf(const SentencePieceFile& file) {
  Definition definition;
  std::vector<std::pair<std::string, int>> tokens;
  for (const auto& piece : file.pieces) {
    const int id = static_cast<int>(tokens.size());
    tokens.emplace_back(piece.text, id);
    // To the library these are plain text where a text has them; to a model they are not.
    if (piece.type == SentencePieceFile::kUnknown || piece.type == SentencePieceFile::kControl) {
      definition.added_tokens.push_back(
          {.id = id, .text = piece.text, .pattern = piece.text, .special = true});
    }
  }
  definition.vocabulary = Vocabulary(std::move(tokens));
  definition.model = SentencePiece(file);
  definition.decode_steps = DecodeStepsOf(file);
  const auto id_or_none = [&](int id) { return id < definition.vocabulary.size() ? id : -1; };
  definition.bos = id_or_none(file.bos_id);
  definition.eos = id_or_none(file.eos_id);
  return definition;
}

}  // namespace

SentencePiece::SentencePiece(const SentencePieceFile& file)
    : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()),
      type_(file.model_type) {
  // It would tell stderr that there is no map of characters.
  if (sentencepiece::logging::SetMinLogLevel != nullptr) {
    sentencepiece::logging::SetMinLogLevel(kFatal);
  }
  // It counts the bytes of the normalised text in an int; a space becomes three.
  max_text_bytes_ = INT_MAX / (3 * std::max<size_t>(file.longest_replacement, 1)) - 1;
  try {
    const auto status = processor_->LoadFromSerializedProto(file.for_library);
    if (!status.ok()) throw std::runtime_error(status.ToString());
  } catch (const std::exception& error) {  // Darts throws its own
    // It may quote a piece.
    throw std::runtime_error("sentencepiece: " + std::string(error.what()).substr(0, 300));
  }
}

SentencePiece::SentencePiece(SentencePiece&&) noexcept = default;
SentencePiece& SentencePiece::operator=(SentencePiece&&) noexcept = default;
SentencePiece::~SentencePiece() = default;

void SentencePiece::Encode(std::string_view text, std::vector<int>* ids) const {
  if (text.size() > max_text_bytes_) {
    throw std::runtime_error("text: wanted at most " + std::to_string(max_text_bytes_) +
                             " bytes for this tokenizer.model, got " + std::to_string(text.size()));
  }
  std::vector<int> encoded;
  const auto status = processor_->Encode(text, &encoded);
  if (!status.ok()) throw std::runtime_error("sentencepiece: " + status.ToString());
  ids->insert(ids->end(), encoded.begin(), encoded.end());
}

std::string SentencePiece::type_name() const {
  constexpr const char* kNames[] = {"UNIGRAM", "BPE", "WORD", "CHAR"};
  return kNames[type_ - SentencePieceFile::kUnigram];
}

Definition ReadSentencePiece(const std::filesystem::path& file) {
  try {
    return DefinitionOf(ParseSentencePieceFile(ReadFile(file)));
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(file.string() + ": " + e.what());
  }
}

}  // namespace fla::tokenizer
