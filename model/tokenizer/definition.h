// A tokenizer as its file defines it.
#pragma once

#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include "model/tokenizer/added_tokens.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/decoder.h"
#include "model/tokenizer/normalizer.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/unigram.h"
#include "model/tokenizer/vocabulary.h"

namespace fla::tokenizer {

struct Definition {
  std::vector<AddedToken> added_tokens;
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  Vocabulary vocabulary;
  std::variant<Bpe, Unigram> model;
  std::vector<int> prefix, suffix;  // what the post-processor puts around a text
  std::vector<DecodeStep> decode_steps;
};

// What tokenizer_config.json adds; all unset where there is no such file.
struct Settings {
  std::string bos_token, eos_token;
  bool add_bos_token = false, add_eos_token = false;
};

// These throw std::runtime_error "file: what: wanted, got".
Definition ReadTokenizerJson(const std::filesystem::path& file);
Settings ReadTokenizerConfig(const std::filesystem::path& file);

}  // namespace fla::tokenizer
