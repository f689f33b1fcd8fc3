// The tokenizer for scripts: reads commands on stdin, answers on stdout.
//
//   tokenizer_tool FOLDER encode   reads texts, each as a uint32 length and its bytes; writes for
//                                  each a uint32 count and the ids (int32), or the count 2^32 - 1
//                                  where the text is refused
//   tokenizer_tool FOLDER decode   reads lists of ids, each as a uint32 count and the ids; writes
//                                  for each the length and bytes of the whole decoding, and the
//                                  same of what the incremental decoder gives, which is also
//                                  compared with the whole for every prefix; at the end the number
//                                  of prefixes goes to stderr
//
// Numbers are in the machine's byte order.
#include <cstdint>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace {

bool ReadCount(uint32_t* count) {
  return static_cast<bool>(std::cin.read(reinterpret_cast<char*>(count), sizeof *count));
}

void WriteCount(uint32_t count) {
  std::cout.write(reinterpret_cast<const char*>(&count), sizeof count);
}

void WriteText(const std::string& text) {
  WriteCount(static_cast<uint32_t>(text.size()));
  std::cout.write(text.data(), static_cast<std::streamsize>(text.size()));
}

void EncodeAll(const fla::Tokenizer& tokenizer) {
  uint32_t bytes = 0;
  std::string text;
  while (ReadCount(&bytes)) {
    text.resize(bytes);
    std::cin.read(text.data(), bytes);
    try {
      const std::vector<int> ids = tokenizer.Encode(text);
      WriteCount(static_cast<uint32_t>(ids.size()));
      std::cout.write(reinterpret_cast<const char*>(ids.data()),
                      static_cast<std::streamsize>(ids.size() * sizeof(int)));
    } catch (const std::invalid_argument&) {
      WriteCount(UINT32_MAX);
    }
  }
}

void DecodeAll(const fla::Tokenizer& tokenizer) {
  uint32_t count = 0;
  uint64_t prefixes = 0;
  std::vector<int> ids;
  while (ReadCount(&count)) {
    ids.resize(count);
    std::cin.read(reinterpret_cast<char*>(ids.data()),
                  static_cast<std::streamsize>(ids.size() * sizeof(int)));
    WriteText(tokenizer.Decode(ids, true));
    fla::IncrementalDecoder decoder(tokenizer);
    std::string streamed;
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::string piece = decoder.Append(ids[i]);
      if (!fla::IsValidUtf8(piece)) throw std::runtime_error("a piece with half a character");
      streamed += piece;
      // A stream that ends here is the whole of what came.
      fla::IncrementalDecoder ended = decoder;
      const std::vector<int> prefix(ids.begin(), ids.begin() + static_cast<int64_t>(i) + 1);
      if (streamed + ended.Finish() != tokenizer.Decode(prefix, true)) {
        throw std::runtime_error("a stream's prefix of " + std::to_string(i + 1) +
                                 " tokens differs from the whole");
      }
    }
    WriteText(streamed + decoder.Finish());
    prefixes += count;
  }
  std::cerr << prefixes << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc == 3 ? argv[2] : "";
  if (command != "encode" && command != "decode") {
    std::cerr << "usage: tokenizer_tool FOLDER encode|decode\n";
    return 2;
  }
  std::ios::sync_with_stdio(false);
  try {
    const auto tokenizer = fla::Tokenizer::Load(argv[1]);
    if (command == "encode") {
      EncodeAll(*tokenizer);
    } else {
      DecodeAll(*tokenizer);
    }
  } catch (const std::exception& e) {
    std::cerr << e.what() << "\n";
    return 1;
  }
}
