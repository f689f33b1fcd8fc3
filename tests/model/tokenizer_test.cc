#include "model/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

const std::filesystem::path kDemo = std::filesystem::path(FLA_SOURCE_DIR) / "demo/model";
const std::filesystem::path kData = std::filesystem::path(FLA_SOURCE_DIR) / "tests/model/data";

json ReadJson(const std::filesystem::path& file) {
  std::ifstream in(file);
  return json::parse(in);
}

std::unique_ptr<Tokenizer> Load(const json& tokenizer, const json& config = nullptr) {
  const TemporaryFolder folder;
  folder.Write("tokenizer.json", tokenizer.dump());
  if (!config.is_null()) folder.Write("tokenizer_config.json", config.dump());
  return Tokenizer::Load(folder.path());
}

std::string BytesOfHex(const std::string& digits) {
  std::string bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// What Load says of a folder with one file.
std::string LoadError(const std::string& file, const std::string& bytes) {
  const TemporaryFolder folder;
  folder.Write(file, bytes);
  try {
    Tokenizer::Load(folder.path());
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "no error";
}

std::string LoadError(const std::string& json_text) {
  return LoadError("tokenizer.json", json_text);
}

std::string Stream(const Tokenizer& tokenizer, const std::vector<int>& ids) {
  IncrementalDecoder decoder(tokenizer);
  std::string text;
  for (const int id : ids) {
    const std::string piece = decoder.Append(id);
    EXPECT_TRUE(IsValidUtf8(piece)) << id;
    text += piece;
  }
  return text + decoder.Finish();
}

// Two letters, one merge.
json Tiny() {
  return json::parse(R"({
    "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
    "post_processor": null, "decoder": {"type": "Fuse"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

TEST(Tokenizer, DemoPutsItsBeginningTokenBeforeATextOnce) {
  const auto tokenizer = Tokenizer::Load(kDemo);
  EXPECT_EQ(tokenizer->bos_token_id(), 0);
  EXPECT_EQ(tokenizer->eos_token_id(), 0);
  EXPECT_EQ(tokenizer->vocab_size(), 4096);
  EXPECT_TRUE(tokenizer->IsSpecial(0));
  EXPECT_FALSE(tokenizer->IsSpecial(1));
  EXPECT_EQ(tokenizer->TokenBytes(0), "<|endoftext|>");
  const std::vector<int> with = tokenizer->Encode("Once upon a time");
  const std::vector<int> without = tokenizer->Encode("Once upon a time", false);
  ASSERT_EQ(with.size(), without.size() + 1);
  EXPECT_EQ(with[0], 0);
  EXPECT_EQ(std::vector<int>(with.begin() + 1, with.end()), without);
  EXPECT_THAT(tokenizer->Encode(""), ElementsAre(0));
  EXPECT_EQ(tokenizer->Decode(with), "<|endoftext|>Once upon a time");
  EXPECT_EQ(tokenizer->Decode(with, true), "Once upon a time");
}

// Cases made by Hugging Face's library and by sentencepiece: see make_tokenizer_cases.py.
TEST(Tokenizer, EveryComponentGivesWhatTheLibrariesGive) {
  const json demo = ReadJson(kDemo / "tokenizer.json");
  json file = ReadJson(kData / "tokenizer_cases.json");
  const auto texts = file["texts"].get<std::vector<std::string>>();
  int compared = 0;
  for (json& entry : file["cases"]) {
    const std::string name = entry["name"];
    const TemporaryFolder folder;
    if (entry.contains("file")) {
      folder.Write(entry["file"], BytesOfHex(entry["hex"]));
    } else {
      json& definition = entry["tokenizer"];
      if (definition["model"] == "demo") definition["model"] = demo["model"];
      folder.Write("tokenizer.json", definition.dump());
    }
    const auto tokenizer = Tokenizer::Load(folder.path());
    ASSERT_EQ(entry["results"].size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      const std::string& text = texts[i];
      const json& wanted_ids = entry["results"][i][0];
      const json& wanted_text = entry["results"][i][1];
      const std::vector<int> ids = tokenizer->Encode(text);
      const std::string decoded = tokenizer->Decode(ids, true);
      EXPECT_EQ(ids, wanted_ids.get<std::vector<int>>()) << name << ": " << text;
      if (!wanted_text.is_null()) {
        const auto wanted = wanted_text.get<std::string>();
        EXPECT_EQ(decoded, wanted == "=" ? text : wanted) << name << ": " << text;
      }
      EXPECT_EQ(Stream(*tokenizer, ids), decoded) << name << ": " << text;
      ++compared;
    }
  }
  EXPECT_GT(compared, 1000);
}

TEST(Tokenizer, RefusesWhatIsNoUtf8) {
  const auto tokenizer = Tokenizer::Load(kDemo);
  EXPECT_THROW(tokenizer->Encode("\xC3"), std::invalid_argument);
  EXPECT_THROW(tokenizer->Encode("a\xED\xA0\x80z"), std::invalid_argument);
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  const auto tokenizer = Tokenizer::Load(kDemo);
  EXPECT_THROW(tokenizer->Decode({1, 4096}), std::out_of_range);
  EXPECT_THROW(tokenizer->Decode({-1}), std::out_of_range);
  EXPECT_THROW(tokenizer->TokenBytes(4096), std::out_of_range);
  IncrementalDecoder decoder(*tokenizer);
  EXPECT_THROW(decoder.Append(1 << 30), std::out_of_range);
}

TEST(Tokenizer, StreamOfAnyTokensEqualsTheWhole) {
  const auto tokenizer = Tokenizer::Load(kDemo);
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int> ids(random() % 20);
    // The bytes beyond ASCII are among the first tokens: many sequences are no UTF-8.
    for (int& id : ids) id = static_cast<int>(random() % (round % 2 == 0 ? 257 : 4096));
    const std::string whole = tokenizer->Decode(ids, true);
    EXPECT_TRUE(IsValidUtf8(whole));
    EXPECT_EQ(Stream(*tokenizer, ids), whole);
  }
}

TEST(Tokenizer, StreamHoldsBackPartsOfACharacter) {
  const auto tokenizer = Tokenizer::Load(kDemo);
  const std::vector<int> ids = tokenizer->Encode("\xF0\x9F\x99\x82", false);
  ASSERT_GT(ids.size(), 1u);
  IncrementalDecoder decoder(*tokenizer);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(decoder.Append(ids[i]), "");
  IncrementalDecoder copy = decoder;
  EXPECT_EQ(decoder.Append(ids.back()), "\xF0\x9F\x99\x82");
  EXPECT_EQ(decoder.Finish(), "");
  EXPECT_EQ(copy.Finish(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, TokenBytesAddUpToTheText) {
  const auto tokenizer = Tokenizer::Load(kDemo);
  const std::string text = "It's na\xC3\xAFve \xE6\x97\xA5\xE6\x9C\xAC\n";
  std::string bytes;
  for (const int id : tokenizer->Encode(text, false)) bytes += tokenizer->TokenBytes(id);
  EXPECT_EQ(bytes, text);
}

TEST(Tokenizer, GivesTheSameInEveryThread) {
  const auto tokenizer = Tokenizer::Load(kDemo);
  const auto encode_all = [&](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::vector<int>> all;
    for (int i = 0; i < 200; ++i) {
      std::string text;
      for (int k = 0; k < 50; ++k) text += "the of and house Whale 123 -- \n"[random() % 31];
      all.push_back(tokenizer->Encode(text));
    }
    return all;
  };
  std::vector<std::vector<std::vector<int>>> results(8);
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < results.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = encode_all(i % 4); });
  }
  for (std::thread& thread : threads) thread.join();
  for (unsigned i = 0; i < results.size(); ++i) EXPECT_EQ(results[i], encode_all(i % 4));
}

TEST(Tokenizer, LongWordsTakeTimeInProportion) {
  const auto tokenizer = Load(Tiny());
  std::string text;
  for (int i = 0; i < 500'000; ++i) text += i % 3 == 0 ? "ab" : "ba";
  const std::vector<int> ids = tokenizer->Encode(text);  // minutes if merging were quadratic
  EXPECT_EQ(tokenizer->Decode(ids), text);
}

TEST(Tokenizer, AddsWhatTheConfigWants) {
  json tokenizer = Tiny();
  tokenizer["added_tokens"] = json::parse(R"([{"id": 3, "content": "<s>", "special": true}])");
  const json config = {{"bos_token", {{"content", "<s>"}}},
                       {"eos_token", "b"},
                       {"add_bos_token", true},
                       {"add_eos_token", true}};
  const auto both = Load(tokenizer, config);
  EXPECT_THAT(both->Encode("aab"), ElementsAre(3, 0, 2, 1));
  EXPECT_THAT(both->Encode("aab", false), ElementsAre(0, 2));
  EXPECT_THAT(both->Encode("a<s>b", false), ElementsAre(0, 3, 1));
  EXPECT_EQ(both->vocab_size(), 4);
  EXPECT_EQ(Load(tokenizer)->bos_token_id(), -1);
}

struct BadFile {
  const char* pointer;  // what is replaced in Tiny()
  const char* value;
  std::vector<const char*> said;
};

TEST(TokenizerErrors, NameTheFileAndWhatIsWrong) {
  const std::vector<BadFile> files = {
      {"/model/type", R"("WordPiece")", {"model: type", "'WordPiece'"}},
      {"/normalizer", R"({"type": "BertNormalizer"})", {"normalizer: type", "'BertNormalizer'"}},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Bert"}]})",
       {"pre_tokenizer 0: type", "'Bert'"}},
      {"/decoder", R"({"type": "CTC"})", {"decoder: type", "'CTC'"}},
      {"/decoder",
       R"({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteLevel"}]})",
       {"decoder", "before the tokens are fused"}},
      {"/post_processor", R"({"type": "BertProcessing"})", {"post_processor: type"}},
      {"/pre_tokenizer",
       R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})",
       {"pre_tokenizer: pattern", "'(a'"}},
      {"/pre_tokenizer",
       R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Eaten"})",
       {"behavior", "'Eaten'"}},
      {"/model/merges/0", R"("a c")", {"merges: entry 0", "'c'"}},
      {"/model/merges/0", R"("b a")", {"merges: entry 0", "'ba'"}},
      {"/model/merges/0", R"("ab")", {"merges: entry 0"}},
      {"/model/merges/0", "[1, 2]", {"merges: entry 0"}},
      {"/model/vocab/b", "0", {"vocabulary: id 0", "'a'", "'b'"}},
      {"/model/vocab/b", "-1", {"vocab: 'b'", "-1"}},
      {"/model/vocab/b", "4000000000", {"vocab: 'b'", "4000000000"}},
      {"/model/vocab", "[]", {"model: vocab", "an object"}},
      {"/model/unk_token", R"("?")", {"unk_token", "'?'"}},
      {"/model/dropout", "0.1", {"dropout"}},
      {"/model", "null", {"model"}},
      {"/added_tokens", R"([{"id": 1, "content": "x"}])", {"added_tokens: entry 0", "'b'"}},
      {"/added_tokens", R"([{"id": 99999999, "content": "x"}])", {"added_tokens: entry 0: id"}},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}},
           {"Sequence": {"id": "A"}}], "special_tokens": {"x": {"ids": [7]}}})",
       {"post_processor", "7"}},
  };
  for (const BadFile& file : files) {
    json tokenizer = Tiny();
    tokenizer[json::json_pointer(file.pointer)] = json::parse(file.value);
    const std::string error = LoadError(tokenizer.dump());
    EXPECT_THAT(error, HasSubstr("tokenizer.json: ")) << file.pointer << file.value;
    for (const char* said : file.said) EXPECT_THAT(error, HasSubstr(said)) << file.value;
  }
}

TEST(TokenizerErrors, BoundHostileFiles) {
  EXPECT_THAT(LoadError(""), HasSubstr("wanted JSON"));
  EXPECT_THAT(LoadError("{\"model\": "), HasSubstr("wanted JSON"));
  EXPECT_THAT(LoadError("[]"), HasSubstr("wanted an object"));
  EXPECT_THAT(LoadError(std::string(1'000'000, '[')), HasSubstr("nesting"));
  EXPECT_THAT(LoadError(std::string((64 << 20) + 1, ' ')), HasSubstr("size"));
  EXPECT_THAT(LoadError("{\"a\": \"\\ud800\"}"), HasSubstr("wanted JSON"));
  const TemporaryFolder empty;
  EXPECT_THROW(Tokenizer::Load(empty.path()), std::runtime_error);
}

TEST(TokenizerErrors, SayWhatIsWrongInAnRwkvVocabulary) {
  const char* const file = "rwkv_vocab_v1.txt";
  EXPECT_THAT(LoadError(file, "1 'a' 1\n2 'bc' 3\n"), HasSubstr("line 2: length: wanted 2"));
  EXPECT_THAT(LoadError(file, "1 'a\n"), HasSubstr("line 1: wanted an id"));
  EXPECT_THAT(LoadError(file, "x 'a' 1\n"), HasSubstr("line 1: id"));
  EXPECT_THAT(LoadError(file, "1 a 1\n"), HasSubstr("line 1: literal"));
  EXPECT_THAT(LoadError(file, "1 '\\x4' 1\n"), HasSubstr("line 1: literal"));
  EXPECT_THAT(LoadError(file, "1 '\\q' 1\n"), HasSubstr("line 1: literal"));
  EXPECT_THAT(LoadError(file, "1 'a' 1\n1 'b' 1\n"), HasSubstr("id 1"));
  EXPECT_THAT(LoadError(file, "1 'a' 1\n"), HasSubstr("for byte 0"));
}

TEST(TokenizerErrors, SayWhatIsWrongInASentencePieceModel) {
  using namespace std::string_literals;
  const char* const file = "tokenizer.model";
  const std::string piece = "\x0A\x08\x0A\x01\x61\x15\0\0\0\0"s;  // 'a', score 0
  EXPECT_THAT(LoadError(file, piece), HasSubstr("no error"));
  EXPECT_THAT(LoadError(file, ""), HasSubstr("wanted a vocabulary"));
  EXPECT_THAT(LoadError(file, piece.substr(0, 6)), HasSubstr("wanted a field of 8 bytes, got 4"));
  EXPECT_THAT(LoadError(file, "\x0B"), HasSubstr("wire type 3"));
  EXPECT_THAT(LoadError(file, std::string(11, '\xFF')), HasSubstr("64 bits"));
  EXPECT_THAT(LoadError(file, "\x0A\x03\x0A\x01\xFF"), HasSubstr("piece 0: wanted UTF-8"));
  EXPECT_THAT(LoadError(file, "\x0A\x05\x0A\x01\x61\x18\x05"), HasSubstr("UNUSED"));
  EXPECT_THAT(LoadError(file, piece + "\x12\x02\x18\x04"), HasSubstr("model type"));
  EXPECT_THAT(LoadError(file, piece + "\x1A\x04\x12\x02zz"), HasSubstr("precompiled_charsmap"));
}

TEST(TokenizerErrors, EndlessBacktrackingEnds) {
  json tokenizer = Tiny();
  tokenizer["pre_tokenizer"] = {{"type", "Split"},
                                {"pattern", {{"Regex", "(a|aa|aaa|aaaa)+$"}}},
                                {"behavior", "Isolated"},
                                {"invert", false}};
  const auto loaded = Load(tokenizer);
  EXPECT_THROW(loaded->Encode(std::string(200, 'a') + "b"), std::runtime_error);
}

}  // namespace
}  // namespace fla
