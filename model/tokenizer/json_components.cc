#include "model/tokenizer/json_components.h"

#include <functional>
#include <initializer_list>
#include <utility>

namespace fla::tokenizer {
namespace {

[[noreturn]] void FailType(const Fields& fields, const std::string& type,
                           std::string_view supported) {
  fields.Fail("type", "one of " + std::string(supported), "'" + type + "', which is not supported");
}

// Calls `read` for the component, or for each part of a Sequence (whose parts are in `list`).
void ForEachComponent(const Json& json, const std::string& where, const char* list,
                      const std::function<void(const Fields&, const std::string&)>& read) {
  const Fields fields(json, where);
  const std::string type = fields.String("type");
  if (type != "Sequence") return read(fields, type);
  int index = 0;
  for (const Json& part : fields.Array(list)) {
    ForEachComponent(part, where + " " + std::to_string(index++), list, read);
  }
}

Pattern ReadPattern(const Fields& fields) {
  const Fields pattern(fields.Get("pattern"), fields.where + ": pattern");
  try {
    if (pattern.Find("Regex") != nullptr) return Regex(pattern.String("Regex"));
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(pattern.where + ": " + e.what());
  }
  std::string literal = pattern.String("String");
  if (literal.empty()) pattern.Fail("String", "a text", "an empty one");
  return literal;
}

SplitBehavior ReadBehavior(const Fields& fields, const std::string& fallback) {
  const std::string name = fields.StringOr("behavior", fallback);
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  fields.Fail("behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
              "'" + name + "'");
}

struct MetaspaceFields {
  std::string replacement;
  Prepend prepend;
};

MetaspaceFields ReadMetaspace(const Fields& fields) {
  MetaspaceFields metaspace{fields.StringOr("replacement", "\xE2\x96\x81"), Prepend::kAlways};
  if (metaspace.replacement.empty()) fields.Fail("replacement", "a character", "nothing");
  const std::string scheme = fields.StringOr("prepend_scheme", "always");
  if (scheme == "first") {
    metaspace.prepend = Prepend::kFirst;
  } else if (scheme == "never") {
    metaspace.prepend = Prepend::kNever;
  } else if (scheme != "always") {
    fields.Fail("prepend_scheme", "first, never or always", "'" + scheme + "'");
  }
  if (!fields.Bool("add_prefix_space", true)) metaspace.prepend = Prepend::kNever;
  return metaspace;
}

Normalizer ReadNormalizer(const Fields& fields, const std::string& type) {
  using unicode::NormalForm;
  if (type == "NFC") return NormalForm::kNfc;
  if (type == "NFD") return NormalForm::kNfd;
  if (type == "NFKC") return NormalForm::kNfkc;
  if (type == "NFKD") return NormalForm::kNfkd;
  if (type == "Replace") return ReplaceAll{ReadPattern(fields), fields.String("content")};
  if (type == "Prepend") return PrependText{fields.String("prepend")};
  if (type == "Strip")
    return StripWhitespace{fields.Bool("strip_left"), fields.Bool("strip_right")};
  if (type == "StripAccents") return StripAccents{};
  if (type == "Lowercase") return LowercaseAll{};
  if (type == "ByteLevel") return MapToByteLetters{};
  FailType(fields, type,
           "NFC, NFD, NFKC, NFKD, Replace, Prepend, Strip, StripAccents, Lowercase, ByteLevel, "
           "Sequence");
}

void ReadPreTokenizer(const Fields& fields, const std::string& type,
                      std::vector<PreTokenizer>* steps) {
  if (type == "ByteLevel") {
    if (fields.Bool("add_prefix_space", true)) steps->push_back(ByteLevelWords{true, false});
    if (fields.Bool("use_regex", true)) steps->push_back(Gpt2Words());
    steps->push_back(ByteLevelWords{false, true});
  } else if (type == "Split") {
    steps->push_back(SplitAtPattern{ReadPattern(fields), ReadBehavior(fields, ""),
                                    fields.Bool("invert", false)});
  } else if (type == "Metaspace") {
    const MetaspaceFields metaspace = ReadMetaspace(fields);
    steps->push_back(
        MetaspaceWords{metaspace.replacement, metaspace.prepend, fields.Bool("split", true)});
  } else if (type == "Whitespace") {
    steps->push_back(WordsAndSymbols());
  } else if (type == "WhitespaceSplit") {
    steps->push_back(SplitAtWhitespace{});
  } else if (type == "Digits") {
    steps->push_back(SplitDigits{fields.Bool("individual_digits", false)});
  } else if (type == "Punctuation") {
    steps->push_back(SplitPunctuation{ReadBehavior(fields, "Isolated")});
  } else {
    FailType(fields, type,
             "ByteLevel, Split, Metaspace, Whitespace, WhitespaceSplit, Digits, Punctuation, "
             "Sequence");
  }
}

DecodeStep ReadDecodeStep(const Fields& fields, const std::string& type) {
  if (type == "ByteLevel") return DecodeByteLevel{};
  if (type == "ByteFallback") return DecodeByteFallback{};
  if (type == "Fuse") return FuseTokens{};
  if (type == "Replace") return ReplaceAll{ReadPattern(fields), fields.String("content")};
  if (type == "Metaspace") {
    const MetaspaceFields metaspace = ReadMetaspace(fields);
    return DecodeMetaspace{metaspace.replacement, metaspace.prepend != Prepend::kNever};
  }
  if (type == "Strip") {
    const StripCharacter strip{fields.String("content"),
                               static_cast<size_t>(fields.Integer("start")),
                               static_cast<size_t>(fields.Integer("stop"))};
    if (strip.character.empty()) fields.Fail("content", "a character", "nothing");
    return strip;
  }
  FailType(fields, type, "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, Sequence");
}

// The ids of one element of a template; `tokens` is its "special_tokens".
std::vector<int> TemplateIds(const Fields& element, const Fields& tokens) {
  const std::string name = element.String("id");
  const Fields token(tokens.Get(name.c_str()), tokens.where + ": " + name);
  std::vector<int> ids;
  for (const Json& id : token.Array("ids")) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      token.Fail("ids", "token ids", Shown(id));
    }
    ids.push_back(id.get<int>());
  }
  return ids;
}

void ReadTemplate(const Fields& fields, std::vector<int>* prefix, std::vector<int>* suffix) {
  const Json none = Json::object();
  const Json* special_tokens = fields.Find("special_tokens");
  const Fields tokens(special_tokens == nullptr ? none : *special_tokens,
                      fields.where + ": special_tokens");
  std::vector<int> before, after;
  bool has_text = false;
  for (const Json& entry : fields.Array("single")) {
    const Fields piece(entry, fields.where + ": single");
    if (piece.Find("Sequence") != nullptr) {
      if (has_text) piece.Fail("Sequence", "one", "several");
      has_text = true;
      continue;
    }
    const Fields element(piece.Get("SpecialToken"), piece.where);
    const std::vector<int> ids = TemplateIds(element, tokens);
    std::vector<int>& side = has_text ? after : before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!has_text) fields.Fail("single", "a Sequence in it", "none");
  prefix->insert(prefix->begin(), before.begin(), before.end());
  suffix->insert(suffix->end(), after.begin(), after.end());
}

}  // namespace

std::vector<Normalizer> ReadNormalizers(const Json* json, const std::string& where) {
  std::vector<Normalizer> normalizers;
  if (json == nullptr) return normalizers;
  ForEachComponent(*json, where, "normalizers", [&](const Fields& fields, const std::string& type) {
    normalizers.push_back(ReadNormalizer(fields, type));
  });
  return normalizers;
}

std::vector<PreTokenizer> ReadPreTokenizers(const Json* json, const std::string& where) {
  std::vector<PreTokenizer> steps;
  if (json == nullptr) return steps;
  ForEachComponent(*json, where, "pretokenizers",
                   [&](const Fields& fields, const std::string& type) {
                     ReadPreTokenizer(fields, type, &steps);
                   });
  return steps;
}

std::vector<DecodeStep> ReadDecodeSteps(const Json* json, const std::string& where) {
  if (json == nullptr) return {JoinWithSpaces{}};
  std::vector<DecodeStep> steps;
  ForEachComponent(*json, where, "decoders", [&](const Fields& fields, const std::string& type) {
    steps.push_back(ReadDecodeStep(fields, type));
  });
  try {
    CheckDecodeSteps(steps);
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(where + ": " + e.what());
  }
  return steps;
}

void ReadPostProcessor(const Json* json, const std::string& where, std::vector<int>* prefix,
                       std::vector<int>* suffix) {
  if (json == nullptr) return;
  ForEachComponent(*json, where, "processors", [&](const Fields& fields, const std::string& type) {
    if (type == "TemplateProcessing") {
      ReadTemplate(fields, prefix, suffix);
    } else if (type != "ByteLevel") {  // which moves offsets, not tokens
      FailType(fields, type, "TemplateProcessing, ByteLevel, Sequence");
    }
  });
}

}  // namespace fla::tokenizer
