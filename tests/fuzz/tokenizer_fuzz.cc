// Any tokenizer file either loads or is refused with an exception, and what loads encodes, decodes
// and streams without fault: the stream adds up to the whole.
//
// The first byte says which file the rest is: tokenizer.json, tokenizer.model or rwkv_vocab.txt.
#include <stdlib.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace {

void Require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

std::filesystem::path TemporaryFolder() {
  const bool has_memory = std::filesystem::exists("/dev/shm");
  std::string name = has_memory ? "/dev/shm/tokenizer_fuzz_XXXXXX" : "/tmp/tokenizer_fuzz_XXXXXX";
  Require(mkdtemp(name.data()) != nullptr, "mkdtemp");
  return name;
}

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
  static const std::filesystem::path kFolder = TemporaryFolder();
  if (size == 0) return 0;
  constexpr const char* kNames[] = {"tokenizer.json", "tokenizer.model", "rwkv_vocab.txt"};
  const std::filesystem::path file = kFolder / kNames[data[0] % 3];
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::ofstream(file, std::ios::binary) << bytes;
  try {
    const auto tokenizer = fla::Tokenizer::Load(kFolder);
    Use(*tokenizer, "Hello, w\xC3\xB6rld 123  \n<s>\xF0\x9F\x99\x82 e\xCC\x81");
    Use(*tokenizer, bytes.substr(0, 300));
  } catch (const std::runtime_error&) {
  }
  std::filesystem::remove(file);
  return 0;
}
