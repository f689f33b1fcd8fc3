// sentencepiece's tokenizer.model: a ModelProto of sentencepiece_model.proto.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <stdexcept>
#include <utility>

#include "model/tokenizer.h"
#include "model/tokenizer/definition.h"
#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581, which stands for the space

// One field of a protobuf message.
struct ProtoField {
  uint32_t number;
  uint64_t value;          // of a varint or fixed field
  std::string_view bytes;  // of a length-delimited one

  int Int() const { return static_cast<int>(value); }
  float Float() const {
    const auto bits = static_cast<uint32_t>(value);
    float number_value;
    std::memcpy(&number_value, &bits, sizeof bits);
    return number_value;
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

void ForEachField(std::string_view message, const std::function<void(const ProtoField&)>& found) {
  while (!message.empty()) {
    const uint64_t tag = TakeVarint(&message);
    ProtoField field{static_cast<uint32_t>(tag >> 3), 0, {}};
    switch (tag & 7) {
      case 0:
        field.value = TakeVarint(&message);
        break;
      case 1:
        std::memcpy(&field.value, TakeBytes(&message, 8).data(), 8);
        break;
      case 2:
        field.bytes = TakeBytes(&message, TakeVarint(&message));
        break;
      case 5:
        std::memcpy(&field.value, TakeBytes(&message, 4).data(), 4);
        break;
      default:
        throw std::runtime_error("wanted a protobuf field, got wire type " +
                                 std::to_string(tag & 7));
    }
    found(field);
  }
}

enum PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
enum ModelType { kUnigramModel = 1, kBpeModel };

struct Piece {
  std::string text;
  float score = 0;
  int type = kNormal;
};

// What is used of ModelProto; the defaults are the proto's.
struct ModelProto {
  std::vector<Piece> pieces;
  int model_type = kUnigramModel;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  int bos_id = 1, eos_id = 2;
  std::string_view charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

Piece ParsePiece(std::string_view message, size_t index) {
  Piece piece;
  ForEachField(message, [&](const ProtoField& field) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) piece.score = field.Float();
    if (field.number == 3) piece.type = field.Int();
  });
  const std::string where = "piece " + std::to_string(index) + ": ";
  if (piece.text.empty() || !IsValidUtf8(piece.text)) {
    throw std::runtime_error(where + "wanted UTF-8, got '" + piece.text + "'");
  }
  if (piece.type == kUnused) throw std::runtime_error(where + "type UNUSED is not supported");
  if (!(piece.score == piece.score)) throw std::runtime_error(where + "wanted a score, got NaN");
  return piece;
}

ModelProto ParseModel(std::string_view bytes) {
  ModelProto model;
  ForEachField(bytes, [&](const ProtoField& part) {
    if (part.number == 1) model.pieces.push_back(ParsePiece(part.bytes, model.pieces.size()));
    if (part.number == 2) {
      ForEachField(part.bytes, [&](const ProtoField& field) {
        if (field.number == 3) model.model_type = field.Int();
        if (field.number == 24) model.whitespace_as_suffix = field.value != 0;
        if (field.number == 35) model.byte_fallback = field.value != 0;
        if (field.number == 41) model.bos_id = field.Int();
        if (field.number == 42) model.eos_id = field.Int();
      });
    }
    if (part.number == 3) {
      ForEachField(part.bytes, [&](const ProtoField& field) {
        if (field.number == 2) model.charsmap = field.bytes;
        if (field.number == 3) model.add_dummy_prefix = field.value != 0;
        if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
        if (field.number == 5) model.escape_whitespaces = field.value != 0;
      });
    }
  });
  if (model.model_type != kUnigramModel && model.model_type != kBpeModel) {
    throw std::runtime_error("model type: wanted UNIGRAM or BPE, got " +
                             std::to_string(model.model_type) + ", which is not supported");
  }
  if (model.whitespace_as_suffix || !model.escape_whitespaces) {
    throw std::runtime_error(
        "treat_whitespace_as_suffix and escape_whitespaces other than their defaults are not "
        "supported");
  }
  return model;
}

// All ways to make a piece of two others, the pieces with the highest scores first.
MergeList MergesOf(const std::vector<Piece>& pieces, const Vocabulary& vocabulary) {
  const auto can_merge = [&](std::string_view text) {
    const int id = vocabulary.Find(text);
    return id >= 0 && pieces[id].type == kNormal;
  };
  std::vector<float> scores;
  scores.reserve(pieces.size());
  for (const Piece& piece : pieces) scores.push_back(-piece.score);
  std::sort(scores.begin(), scores.end());
  MergeList merges;
  for (const Piece& piece : pieces) {
    if (piece.type != kNormal) continue;
    const auto rank = std::lower_bound(scores.begin(), scores.end(), -piece.score) - scores.begin();
    const std::string& text = piece.text;
    for (size_t cut = unicode::CharacterBytes(text[0]); cut < text.size();
         cut += unicode::CharacterBytes(text[cut])) {
      std::string left = text.substr(0, cut);
      std::string right = text.substr(cut);
      if (!can_merge(left) || !can_merge(right)) continue;
      merges.pairs.emplace_back(std::move(left), std::move(right));
      merges.ranks.push_back(static_cast<uint32_t>(rank));
    }
  }
  return merges;
}

void SetModel(const ModelProto& proto, int unk_id, Definition* definition) {
  const Vocabulary& vocabulary = definition->vocabulary;
  if (proto.model_type == kBpeModel) {
    BpeOptions options;
    if (unk_id >= 0) options.unk_token = proto.pieces[unk_id].text;
    options.fuse_unk = true;
    options.byte_fallback = proto.byte_fallback;
    definition->model = MakeBpe(vocabulary, MergesOf(proto.pieces, vocabulary), options, false);
    return;
  }
  std::vector<UnigramToken> tokens;
  for (const Piece& piece : proto.pieces) tokens.push_back({piece.score, piece.type == kNormal});
  Unigram unigram = MakeUnigram(vocabulary, tokens, unk_id, proto.byte_fallback);
  unigram.single_precision = true;
  definition->model = std::move(unigram);
}

void SetNormalizers(const ModelProto& proto, Definition* definition) {
  auto& normalizers = definition->normalizers;
  if (!proto.charsmap.empty()) normalizers.push_back(CharacterMap(proto.charsmap));
  if (proto.remove_extra_whitespaces) {
    normalizers.push_back(ReplaceAll{Regex(R"(\A +)"), ""});
    normalizers.push_back(ReplaceAll{Regex(" {2,}"), " "});
  }
  if (proto.add_dummy_prefix) normalizers.push_back(PrependText{" "});
  normalizers.push_back(ReplaceAll{std::string(" "), std::string(kSpace)});
  if (proto.remove_extra_whitespaces) {
    normalizers.push_back(ReplaceAll{Regex("(?:" + std::string(kSpace) + R"()+\z)"), ""});
  }

  auto& steps = definition->decode_steps;
  steps = {ReplaceAll{std::string(kSpace), " "}, DecodeByteFallback{}, FuseTokens{}};
  if (proto.remove_extra_whitespaces) {
    steps.push_back(StripCharacter{" ", SIZE_MAX, 0});
  } else if (proto.add_dummy_prefix) {
    steps.push_back(StripCharacter{" ", 1, 0});
  }
}

Definition DefinitionOf(const ModelProto& proto) {
  Definition definition;
  std::vector<std::pair<std::string, int>> tokens;
  int unk_id = -1;
  for (const Piece& piece : proto.pieces) {
    const int id = static_cast<int>(tokens.size());
    tokens.emplace_back(piece.text, id);
    if (piece.type == kUnknown) unk_id = id;
    if (piece.type == kUnknown || piece.type == kControl || piece.type == kUserDefined) {
      const bool user_defined = piece.type == kUserDefined;
      definition.added_tokens.push_back({.id = id,
                                         .text = piece.text,
                                         .pattern = piece.text,
                                         .special = !user_defined,
                                         .normalized = user_defined});
    }
  }
  definition.vocabulary = Vocabulary(std::move(tokens));
  SetModel(proto, unk_id, &definition);
  SetNormalizers(proto, &definition);
  const auto id_or_none = [&](int id) { return id < definition.vocabulary.size() ? id : -1; };
  definition.bos = id_or_none(proto.bos_id);
  definition.eos = id_or_none(proto.eos_id);
  return definition;
}

}  // namespace

Definition ReadSentencePiece(const std::filesystem::path& file) {
  try {
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
    return DefinitionOf(ParseModel(bytes));
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(file.string() + ": " + e.what());
  }
}

}  // namespace fla::tokenizer
