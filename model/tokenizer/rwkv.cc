// RWKV's vocabulary: lines "id literal bytes", the literal a Python string or bytes literal.
#include <charconv>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <utility>

#include "model/tokenizer/definition.h"
#include "model/unicode.h"

namespace fla::tokenizer {
namespace {

constexpr size_t kMaxLineBytes = 4096;
// Stands between texts; no line of the file has its id.
constexpr std::string_view kEndOfText = "<|rwkv_tokenizer_end_of_text|>";

std::optional<unsigned> ParseNumber(std::string_view digits, int base) {
  unsigned value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

// The bytes of a Python literal; nothing if it is none.
std::optional<std::string> ParseLiteral(std::string_view literal) {
  const bool is_bytes = literal.starts_with('b');
  if (is_bytes) literal.remove_prefix(1);
  if (literal.size() < 2 || (literal[0] != '\'' && literal[0] != '"') ||
      literal.back() != literal[0]) {
    return std::nullopt;
  }
  literal = literal.substr(1, literal.size() - 2);
  std::string bytes;
  for (size_t i = 0; i < literal.size(); ++i) {
    if (literal[i] != '\\') {
      bytes += literal[i];
      continue;
    }
    if (++i == literal.size()) return std::nullopt;
    const char c = literal[i];
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
      const auto value = ParseNumber(literal.substr(i + 1, digits), 16);
      if (i + digits >= literal.size() || !value || *value > 0x10FFFF) return std::nullopt;
      i += digits;
      if (is_bytes) {
        bytes += static_cast<char>(*value);
      } else {
        unicode::Append(*value, &bytes);
      }
      continue;
    }
    constexpr std::string_view kEscapes = "ntrabfv\\'\"";
    constexpr std::string_view kMeanings = "\n\t\r\a\b\f\v\\'\"";
    const size_t index = kEscapes.find(c);
    if (index == std::string_view::npos) return std::nullopt;
    bytes += kMeanings[index];
  }
  return bytes;
}

std::pair<std::string, int> ParseLine(std::string_view line) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) {
    throw std::runtime_error("wanted an id, a literal and a length");
  }
  const auto id = ParseNumber(line.substr(0, first), 10);
  const auto length = ParseNumber(line.substr(last + 1), 10);
  const auto text = ParseLiteral(line.substr(first + 1, last - first - 1));
  if (!id || *id > static_cast<unsigned>(kMaxTokenId))
    throw std::runtime_error("id: wanted a number");
  if (!text || text->empty()) throw std::runtime_error("literal: wanted Python's string or bytes");
  if (!length || *length != text->size()) {
    throw std::runtime_error("length: wanted " + std::to_string(text->size()));
  }
  return {*text, static_cast<int>(*id)};
}

}  // namespace

Definition ReadRwkvVocabulary(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error(file.string() + ": wanted a readable file, got none");
  std::vector<std::pair<std::string, int>> tokens;
  size_t number = 0;
  bool zero_is_free = true;
  std::string line;
  while (std::getline(in, line)) {
    ++number;
    while (line.ends_with('\r') || line.ends_with('\n')) line.pop_back();
    if (line.empty()) continue;
    try {
      if (line.size() > kMaxLineBytes) throw std::runtime_error("wanted a shorter line");
      tokens.push_back(ParseLine(line));
      zero_is_free = zero_is_free && tokens.back().second != 0;
      if (tokens.size() > kMaxTokens) throw std::runtime_error("wanted fewer tokens");
    } catch (const std::runtime_error& e) {
      throw std::runtime_error(file.string() + ": line " + std::to_string(number) + ": " +
                               e.what() + ", got '" + line.substr(0, 60) + "'");
    }
  }
  Definition definition;
  try {
    definition.vocabulary = Vocabulary(std::move(tokens));
    definition.model = MakeLongestMatch(definition.vocabulary);
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(file.string() + ": " + e.what());
  }
  definition.decode_steps = {DecodeRawBytes{}};
  if (zero_is_free) {
    definition.added_tokens = {{.id = 0,
                                .text = std::string(kEndOfText),
                                .pattern = std::string(kEndOfText),
                                .special = true}};
    definition.bos = definition.eos = 0;
  }
  return definition;
}

}  // namespace fla::tokenizer
