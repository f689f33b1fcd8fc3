// From tokens back to text: the decoders of a tokenizer.json as steps of a stream.
//
// A step takes token texts and passes on what is certain of its result; Flush passes on the rest.
// Whole texts are decoded by the same steps, so that a stream's pieces add up to them.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/tokenizer/normalizer.h"

namespace fla::tokenizer {

struct DecodeByteLevel {};     // texts in GPT-2's alphabet; others stand for themselves
struct DecodeRawBytes {};      // texts that are any bytes
struct DecodeByteFallback {};  // <0x0A> is a byte, any other text itself
struct FuseTokens {};          // later steps see the whole text as one token
struct JoinWithSpaces {};      // what stands for a missing decoder
struct StripCharacter {
  std::string character;
  size_t start, stop;  // how many of it at most go at either end of a token
};
struct DropFirstSpace {  // before texts are fused, as sentencepiece does it
  std::string space;     // goes from the beginning of the first token that is not this alone,
  bool repeated;         // and from that of every token before it, or from one token's at most
};
struct DecodeMetaspace {
  std::string replacement;  // becomes a space
  bool drop_first;          // but nothing in the first token
};

using DecodeStep =
    std::variant<DecodeByteLevel, DecodeRawBytes, DecodeByteFallback, FuseTokens, JoinWithSpaces,
                 StripCharacter, DropFirstSpace, DecodeMetaspace, ReplaceAll>;

// What a step remembers of a stream.
struct DecodeState {
  std::string pending;  // text or bytes that are not passed on yet
  size_t seen = 0;      // tokens, or characters stripped, or 1: text
};

// Throws std::runtime_error for an order of steps that is not supported.
void CheckDecodeSteps(std::span<const DecodeStep> steps);

// Appends to `out` what becomes certain with `token`. `states` has one entry for each step.
void Decode(std::span<const DecodeStep> steps, std::span<DecodeState> states,
            std::string_view token, std::string* out);

// Appends what is left at the end of the stream.
void FlushDecode(std::span<const DecodeStep> steps, std::span<DecodeState> states,
                 std::string* out);

// The bytes that a token in the midst of a text stands for.
std::string BytesOfToken(std::span<const DecodeStep> steps, std::string_view token);

}  // namespace fla::tokenizer
