// A tokenizer whose 256 tokens are the 256 bytes: token i is byte i.
#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "model/tokenizer.h"
#include "tests/testing/temporary_folder.h"

namespace fla::testing {

inline std::string ByteTokenizerJson() {
  std::string vocabulary;
  int next = 256;  // GPT-2's alphabet: bytes that are no printable character get one from here on
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    char entry[32];
    std::snprintf(entry, sizeof(entry), "%s\"\\u%04x\": %d", byte == 0 ? "" : ", ",
                  printable ? byte : next++, byte);
    vocabulary += entry;
  }
  return R"({"version": "1.0", "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                      "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
              "vocab": {)" +
         vocabulary + R"(}, "merges": []}})";
}

inline std::shared_ptr<const Tokenizer> MakeByteTokenizer() {
  const TemporaryFolder folder;
  folder.Write("tokenizer.json", ByteTokenizerJson());
  return Tokenizer::Load(folder.path());
}

}  // namespace fla::testing
