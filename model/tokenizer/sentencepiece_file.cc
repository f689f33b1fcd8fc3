#include "model/tokenizer/sentencepiece_file.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string_view>

#include "model/tokenizer.h"
#include "model/tokenizer/sentencepiece_charsmap.h"
#include "model/tokenizer/vocabulary.h"

namespace fla::tokenizer {
namespace {

// Longer ones would make encoding slow: a text is compared with a piece at each of its places.
constexpr size_t kMaxPieceBytes = 4096;
// Of these the library makes its largest structure; Gemma has 6 thousand.
constexpr size_t kMaxUserDefined = size_t{1} << 16;
// PrefixMatcher's kResultSize: the library has room for so many user-defined pieces that begin one
// another, and does not look whether there are more.
constexpr size_t kMaxNestedPieces = 64;

enum class WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// One field of a protobuf message. Of another wire type than asked for it is an error: the library
// passes over such a field, and would see another file than we do.
struct ProtoField {
  uint64_t number;
  WireType type;
  uint64_t value = 0;      // of a varint or fixed field
  std::string_view bytes;  // of a length-delimited one

  void Want(WireType wanted) const {
    if (type == wanted) return;
    throw std::runtime_error("field " + std::to_string(number) + ": wanted wire type " +
                             std::to_string(static_cast<int>(wanted)) + ", got " +
                             std::to_string(static_cast<int>(type)));
  }
  int Int() const {
    Want(WireType::kVarint);
    return static_cast<int>(value);
  }
  bool Bool() const {
    Want(WireType::kVarint);
    return value != 0;
  }
  float Float() const {
    Want(WireType::kFixed32);
    const auto bits = static_cast<uint32_t>(value);
    float number_value;
    std::memcpy(&number_value, &bits, sizeof bits);
    return number_value;
  }
  std::string_view Bytes() const {
    Want(WireType::kBytes);
    return bytes;
  }
};

uint64_t TakeVarint(std::string_view* bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (bytes->empty()) throw std::runtime_error("wanted a whole number, got the end");
    const auto byte = static_cast<uint8_t>(bytes->front());
    bytes->remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  throw std::runtime_error("wanted a number of at most 64 bits, got a longer one");
}

std::string_view TakeBytes(std::string_view* bytes, uint64_t count) {
  if (count > bytes->size()) {
    throw std::runtime_error("wanted a field of " + std::to_string(count) + " bytes, got " +
                             std::to_string(bytes->size()));
  }
  const std::string_view taken = bytes->substr(0, count);
  bytes->remove_prefix(count);
  return taken;
}

// Calls `found` with each field of a message and the bytes it came as.
void ForEachField(std::string_view message,
                  const std::function<void(const ProtoField&, std::string_view raw)>& found) {
  while (!message.empty()) {
    const std::string_view rest = message;
    const uint64_t tag = TakeVarint(&message);
    ProtoField field{tag >> 3, static_cast<WireType>(tag & 7)};
    switch (field.type) {
      case WireType::kVarint:
        field.value = TakeVarint(&message);
        break;
      case WireType::kFixed64:
        std::memcpy(&field.value, TakeBytes(&message, 8).data(), 8);
        break;
      case WireType::kBytes:
        field.bytes = TakeBytes(&message, TakeVarint(&message));
        break;
      case WireType::kFixed32:
        std::memcpy(&field.value, TakeBytes(&message, 4).data(), 4);
        break;
      default:
        throw std::runtime_error("wanted a protobuf field, got wire type " +
                                 std::to_string(tag & 7));
    }
    found(field, rest.substr(0, rest.size() - message.size()));
  }
}

SentencePieceFile::Piece ParsePiece(std::string_view message, size_t index) {
  SentencePieceFile::Piece piece;
  float score = 0;
  ForEachField(message, [&](const ProtoField& field, std::string_view) {
    if (field.number == 1) piece.text = field.Bytes();
    if (field.number == 2) score = field.Float();
    if (field.number == 3) piece.type = field.Int();
  });
  const std::string where = "piece " + std::to_string(index) + ": ";
  if (piece.text.size() > kMaxPieceBytes) {
    throw std::runtime_error(where + "wanted at most " + std::to_string(kMaxPieceBytes) +
                             " bytes, got " + std::to_string(piece.text.size()));
  }
  if (piece.text.empty() || !IsValidUtf8(piece.text) ||
      piece.text.find('\0') != std::string::npos) {  // the library takes NUL for the end
    throw std::runtime_error(where + "wanted UTF-8 without NUL, got other bytes");
  }
  if (piece.type < SentencePieceFile::kNormal || piece.type > SentencePieceFile::kByte) {
    throw std::runtime_error(where + "type: wanted 1 to 6, got " + std::to_string(piece.type));
  }
  if (std::isnan(score)) throw std::runtime_error(where + "wanted a score, got NaN");
  return piece;
}

void ParseTrainerSpec(std::string_view message, SentencePieceFile* file) {
  ForEachField(message, [&](const ProtoField& field, std::string_view) {
    if (field.number == 3) file->model_type = field.Int();
    if (field.number == 41) file->bos_id = field.Int();
    if (field.number == 42) file->eos_id = field.Int();
  });
  if (file->model_type < SentencePieceFile::kUnigram ||
      file->model_type > SentencePieceFile::kChar) {
    throw std::runtime_error("model type: wanted 1 (UNIGRAM) to 4 (CHAR), got " +
                             std::to_string(file->model_type));
  }
}

void ParseNormalizerSpec(std::string_view message, SentencePieceFile* file) {
  ForEachField(message, [&](const ProtoField& field, std::string_view) {
    if (field.number == 2 && !field.Bytes().empty()) {
      file->longest_replacement = std::max(file->longest_replacement, CheckCharsmap(field.bytes));
    }
    if (field.number == 3) file->add_dummy_prefix = field.Bool();
    if (field.number == 4) file->remove_extra_whitespaces = field.Bool();
    if (field.number == 5 && !field.Bool()) {
      throw std::runtime_error("escape_whitespaces other than its default is not supported");
    }
  });
}

void RefuseDenormalizer(std::string_view message) {
  ForEachField(message, [&](const ProtoField& field, std::string_view) {
    if (field.number == 2 && !field.Bytes().empty()) {
      throw std::runtime_error("denormalizer_spec: a map of characters is not supported");
    }
  });
}

void CheckUserDefined(const std::vector<SentencePieceFile::Piece>& pieces) {
  std::vector<std::string_view> symbols;
  for (const auto& piece : pieces) {
    if (piece.type == SentencePieceFile::kUserDefined) symbols.push_back(piece.text);
  }
  if (symbols.size() > kMaxUserDefined) {
    throw std::runtime_error("user-defined pieces: wanted at most " +
                             std::to_string(kMaxUserDefined) + ", got " +
                             std::to_string(symbols.size()));
  }
  std::sort(symbols.begin(), symbols.end());
  std::vector<std::string_view> nested;  // each begins the next
  for (const std::string_view symbol : symbols) {
    while (!nested.empty() && !symbol.starts_with(nested.back())) nested.pop_back();
    nested.push_back(symbol);
    if (nested.size() > kMaxNestedPieces) {
      throw std::runtime_error("user-defined pieces: wanted at most " +
                               std::to_string(kMaxNestedPieces) +
                               " that begin one another, got more");
    }
  }
}

}  // namespace

SentencePieceFile ParseSentencePieceFile(std::string_view bytes) {
  SentencePieceFile file;
  ForEachField(bytes, [&](const ProtoField& part, std::string_view raw) {
    if (part.number == 1) {
      if (file.pieces.size() == kMaxTokens) {
        throw std::runtime_error("wanted at most " + std::to_string(kMaxTokens) +
                                 " pieces, got more");
      }
      file.pieces.push_back(ParsePiece(part.Bytes(), file.pieces.size()));
    }
    if (part.number == 2) ParseTrainerSpec(part.Bytes(), &file);
    if (part.number == 3) ParseNormalizerSpec(part.Bytes(), &file);
    if (part.number == 5) RefuseDenormalizer(part.Bytes());
    if (part.number >= 1 && part.number <= 3) file.for_library += raw;
  });
  if (file.pieces.empty()) throw std::runtime_error("wanted a vocabulary, got none");
  CheckUserDefined(file.pieces);
  return file;
}

}  // namespace fla::tokenizer
