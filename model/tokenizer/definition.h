// A tokenizer as its file defines it.
#pragma once

#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/longest_match.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/sentencepiece.h"
#include "model/tokenizer/unigram.h"
#include "model/tokenizer/vocabulary.h"

namespace fla::tokenizer {

struct Definition {
  std::vector<AddedToken> added_tokens;
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  Vocabulary vocabulary;
  std::variant<Bpe, Unigram, LongestMatch, SentencePiece> model;
  std::vector<int> prefix, suffix;  // what the post-processor puts around a text
  std::vector<DecodeStep> decode_steps;
  int bos = -1, eos = -1;  // where the file itself says them
};

// What tokenizer_config.json adds; all unset where there is no such file.
struct Settings {
  std::string bos_token, eos_token;
  bool add_bos_token = false, add_eos_token = false;
  bool says_add_bos_token = false;  // whether the field is there at all
  std::string tokenizer_class;
};

// These throw std::runtime_error "file: what: wanted, got".
Definition ReadTokenizerJson(const std::filesystem::path& file);
Definition ReadSentencePiece(const std::filesystem::path& file);   // tokenizer.model
Definition ReadRwkvVocabulary(const std::filesystem::path& file);  // rwkv_vocab_*.txt
Settings ReadTokenizerConfig(const std::filesystem::path& file);

}  // namespace fla::tokenizer
