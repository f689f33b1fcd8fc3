// Any tokenizer file either loads or is refused with an exception, and what loads encodes, decodes
// and streams without fault: the stream adds up to the whole.
//
// The first byte says which file the rest is: tokenizer.json, tokenizer.model or rwkv_vocab.txt.
#include <stdexcept>
#include <string>
#include <vector>

#include "model/tokenizer.h"
#include "tests/fuzz/input_folder.h"

namespace {

using fla::fuzz::Require;

void Use(const fla::Tokenizer& tokenizer, std::string_view text) {
  std::vector<int> ids;
  try {
    ids = tokenizer.Encode(text);
  } catch (const std::invalid_argument&) {
    Require(!fla::IsValidUtf8(text), "valid UTF-8 is refused");
  } catch (const std::runtime_error&) {
    // Endless backtracking, or a character without a token.
  }
  for (int id = 0; id < tokenizer.vocab_size() && id < 300; ++id) ids.push_back(id);
  fla::IncrementalDecoder decoder(tokenizer);
  std::string streamed;
  for (const int id : ids) {
    const std::string piece = decoder.Append(id);
    Require(fla::IsValidUtf8(piece), "a piece with half a character");
    streamed += piece;
    tokenizer.TokenBytes(id);
  }
  streamed += decoder.Finish();
  Require(streamed == tokenizer.Decode(ids, true), "the stream differs from the whole");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fla::fuzz::InputFolder kFolder;
  if (size == 0) return 0;
  constexpr const char* kNames[] = {"tokenizer.json", "tokenizer.model", "rwkv_vocab.txt"};
  const std::string_view bytes = fla::fuzz::BytesOf(data + 1, size - 1);
  kFolder.Clear();
  kFolder.Write(kNames[data[0] % 3], bytes);
  try {
    const auto tokenizer = fla::Tokenizer::Load(kFolder.path());
    Use(*tokenizer, "Hello, w\xC3\xB6rld 123  \n<s>\xF0\x9F\x99\x82 e\xCC\x81");
    Use(*tokenizer, bytes.substr(0, 300));
  } catch (const std::runtime_error&) {
  }
  return 0;
}
