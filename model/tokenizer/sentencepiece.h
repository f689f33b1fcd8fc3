// sentencepiece's models, which the sentencepiece library encodes.
//
// Of the file itself we read only what the library does not give or does not check
// (sentencepiece_file.h). Texts come back by the steps of decoder.h: the library decodes whole
// lists alone, and a stream's pieces must add up to the same.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace fla::tokenizer {

struct SentencePieceFile;

// Thread safety: const methods may be called from any number of threads.
class SentencePiece {
 public:
  // Throws std::runtime_error for what the library refuses.
  explicit SentencePiece(const SentencePieceFile& file);
  SentencePiece(SentencePiece&&) noexcept;
  SentencePiece& operator=(SentencePiece&&) noexcept;
  ~SentencePiece();

  // Appends the tokens of a text without control pieces, normalised as the file says. Throws
  // std::runtime_error where the library fails, and for a text that is too long for it.
  void Encode(std::string_view text, std::vector<int>* ids) const;

  std::string type_name() const;  // "UNIGRAM"

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  int type_;
  size_t max_text_bytes_;
};

}  // namespace fla::tokenizer
