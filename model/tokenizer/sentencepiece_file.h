// What is read of sentencepiece's tokenizer.model (a ModelProto of sentencepiece_model.proto)
// before the library gets it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fla::tokenizer {

struct SentencePieceFile {
  enum PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  enum ModelType { kUnigram = 1, kBpe, kWord, kChar };

  struct Piece {
    std::string text;
    int type = kNormal;
  };

  // The defaults are the proto's.
  std::vector<Piece> pieces;
  int model_type = kUnigram;
  int bos_id = 1, eos_id = 2;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  size_t longest_replacement = 0;  // bytes that normalisation can make of a character

  // The parts that the library needs: pieces, trainer_spec and normalizer_spec. Left out is the
  // self test, which encodes as much text as the file likes.
  std::string for_library;
};

// Throws std::runtime_error "what: wanted, got" for what is not supported and for everything that
// the library would believe to its harm: after this it may get `for_library`.
SentencePieceFile ParseSentencePieceFile(std::string_view bytes);

}  // namespace fla::tokenizer
