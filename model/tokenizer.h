// Text to token ids and back, from a Hugging Face tokenizer.json, sentencepiece's tokenizer.model
// or RWKV's vocabulary.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fla {

namespace tokenizer {
struct DecodeState;
}

// What a tokenizer was read from, for people.
struct TokenizerOrigin {
  std::string file;                 // of the folder, "tokenizer.json"
  std::string kind;                 // "byte-level BPE"
  std::string bos_file, eos_file;   // which names bos_token_id and eos_token_id; empty for -1
  std::vector<int> prefix, suffix;  // what Encode adds before and after a text
};

// An immutable tokenizer.
//
// Thread safety: const methods may be called from any number of threads.
class Tokenizer {
 public:
  // Reads tokenizer.json, tokenizer.model or rwkv_vocab*.txt (of several, the first) and, if there,
  // tokenizer_config.json of a checkpoint folder. Throws
  // std::runtime_error "file: what: wanted, got" for a missing or malformed file and for a
  // component that is not supported (named).
  static std::unique_ptr<Tokenizer> Load(const std::filesystem::path& folder);
  // Whether a folder has one of those files.
  static bool IsIn(const std::filesystem::path& folder);
  // One without tokens, for models that are asked by token ids or vectors alone: no text can be
  // encoded.
  static std::unique_ptr<Tokenizer> None();
  ~Tokenizer();

  // `text` must be valid UTF-8 (see IsValidUtf8), else std::invalid_argument. Special tokens that
  // stand in the text are recognised. With add_special_tokens, what the post-processor or
  // tokenizer_config.json's add_bos_token / add_eos_token wants is added. Takes time and memory in
  // proportion to the text. Throws std::runtime_error where the tokenizer cannot do the text: a
  // regular expression of its file that backtracks without end, or a character that has no token.
  std::vector<int> Encode(std::string_view text, bool add_special_tokens = true) const;

  // The text of ids. Bytes that are no UTF-8 become U+FFFD. Ids outside the vocabulary throw
  // std::out_of_range with the id.
  std::string Decode(const std::vector<int>& ids, bool skip_special_tokens = false) const;

  // The bytes that one token stands for (a special token: its text). May be no UTF-8 by itself.
  std::string TokenBytes(int id) const;

  bool IsSpecial(int id) const;
  int vocab_size() const;
  int bos_token_id() const;  // -1 where there is none
  int eos_token_id() const;  // -1 where there is none
  TokenizerOrigin origin() const;

 private:
  friend class IncrementalDecoder;
  struct Parts;
  explicit Tokenizer(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

// Decodes a stream of tokens: the concatenation of what Append and Finish return equals
// Tokenizer::Decode of all tokens (special tokens skipped), and no piece ends within a UTF-8
// character.
//
// Thread safety: one thread at a time.
class IncrementalDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  explicit IncrementalDecoder(const Tokenizer& tokenizer);
  IncrementalDecoder(const IncrementalDecoder&);
  IncrementalDecoder(IncrementalDecoder&&) noexcept;
  IncrementalDecoder& operator=(const IncrementalDecoder&);
  IncrementalDecoder& operator=(IncrementalDecoder&&) noexcept;
  ~IncrementalDecoder();

  // The text that became certain with this token; may be empty. Throws std::out_of_range for an id
  // outside the vocabulary.
  std::string Append(int id);
  // What is left, incomplete characters as U+FFFD.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  std::vector<tokenizer::DecodeState> states_;
};

// True if `text` is well-formed UTF-8 (no surrogates, no overlong forms, at most U+10FFFF).
bool IsValidUtf8(std::string_view text);

}  // namespace fla
