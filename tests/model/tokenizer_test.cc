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

// Any number of threads encode with one tokenizer.
void ExpectTheSameInEveryThread(const Tokenizer& tokenizer) {
  const auto encode_all = [&](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::vector<int>> all;
    for (int i = 0; i < 200; ++i) {
      std::string text;
      for (int k = 0; k < 50; ++k) text += "the of and house Whale 123 -- \n"[random() % 31];
      all.push_back(tokenizer.Encode(text));
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

TEST(Tokenizer, GivesTheSameInEveryThread) {
  ExpectTheSameInEveryThread(*Tokenizer::Load(kDemo));
  const json cases = ReadJson(kData / "tokenizer_cases.json");
  for (const json& entry : cases["cases"]) {
    if (entry.value("file", "") != "tokenizer.model") continue;
    const TemporaryFolder folder;
    folder.Write(entry["file"], BytesOfHex(entry["hex"]));
    ExpectTheSameInEveryThread(*Tokenizer::Load(folder.path()));
  }
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
  EXPECT_THAT(LoadError("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"),
              HasSubstr("git lfs pull"));
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
  const std::string unknown = "\x0A\x05\x0A\x01?\x18\x02"s;
  const std::string piece = unknown + "\x0A\x08\x0A\x01\x61\x15\0\0\0\0"s;  // 'a', score 0
  EXPECT_THAT(LoadError(file, piece), HasSubstr("no error"));
  EXPECT_THAT(LoadError(file, ""), HasSubstr("wanted a vocabulary"));
  EXPECT_THAT(LoadError(file, piece.substr(0, piece.size() - 4)),
              HasSubstr("wanted a field of 8 bytes, got 4"));
  EXPECT_THAT(LoadError(file, "\x0B"), HasSubstr("wire type 3"));
  EXPECT_THAT(LoadError(file, std::string(11, '\xFF')), HasSubstr("64 bits"));
  EXPECT_THAT(LoadError(file, "\x0A\x03\x0A\x01\xFF"), HasSubstr("piece 0: wanted UTF-8"));
  EXPECT_THAT(LoadError(file, "\x0A\x03\x0A\x01\0"s), HasSubstr("without NUL"));
  EXPECT_THAT(LoadError(file, "\x0A\x05\x0A\x01\x61\x18\x07"), HasSubstr("type: wanted 1 to 6"));
  EXPECT_THAT(LoadError(file, "\x0A\x08\x0A\x01\x61\x15\0\0\xC0\x7F"s), HasSubstr("NaN"));
  EXPECT_THAT(LoadError(file, "\x0A\x02\x08\x01"), HasSubstr("field 1: wanted wire type 2, got 0"));
  EXPECT_THAT(LoadError(file, piece + "\x12\x02\x18\x05"), HasSubstr("model type"));
  EXPECT_THAT(LoadError(file, piece + "\x1A\x02\x28\0"s), HasSubstr("escape_whitespaces"));
  EXPECT_THAT(LoadError(file, piece + "\x2A\x04\x12\x02zz"), HasSubstr("denormalizer_spec"));
  // What the library itself refuses.
  EXPECT_THAT(LoadError(file, piece.substr(unknown.size())), HasSubstr("unk is not defined"));
  EXPECT_THAT(LoadError(file, piece + unknown), HasSubstr("already defined"));
}

// A field of a protobuf message; below 2^21 bytes.
std::string Field(int number, const std::string& bytes) {
  std::string field;
  field += static_cast<char>((number << 3) | 2);
  field += static_cast<char>((bytes.size() & 0x7F) | 0x80);
  field += static_cast<char>((bytes.size() >> 7 & 0x7F) | 0x80);
  field += static_cast<char>(bytes.size() >> 14);
  return field + bytes;
}

// sentencepiece drops what it put before a text, which a byte that is a space is not.
TEST(Tokenizer, KeepsAFirstSpaceThatIsAByte) {
  using namespace std::string_literals;
  const auto piece = [](const std::string& text, const std::string& type) {
    return Field(1, Field(1, text) + type);
  };
  std::string model = piece("?", "\x18\x02");
  for (int byte = 0; byte < 256; ++byte) {
    char text[] = "<0x00>";
    std::snprintf(text, sizeof text, "<0x%02X>", byte);
    model += piece(text, "\x18\x06");
  }
  model += piece("\xE2\x96\x81", "") + piece("a", "") + Field(2, "\x98\x02\x01"s);
  const int byte_space = 1 + ' ', space = 257, a = 258;
  const TemporaryFolder folder;
  folder.Write("tokenizer.model", model);
  const auto tokenizer = Tokenizer::Load(folder.path());
  const auto decode = [&](std::vector<int> ids) { return tokenizer->Decode(ids); };
  EXPECT_EQ(decode({space, a, space}), "a ");
  EXPECT_EQ(decode({space, space, a}), "a");
  EXPECT_EQ(decode({byte_space, a}), " a");
  EXPECT_EQ(decode({byte_space, space, a}), "  a");
  EXPECT_EQ(decode({space, byte_space, space, a}), "  a");
}

TEST(TokenizerErrors, KeepTheLibraryFromCharacterMapsThatLeadItAstray) {
  using namespace std::string_literals;
  const std::string pieces = "\x0A\x05\x0A\x01?\x18\x02\x0A\x03\x0A\x01\x61"s;
  // Says what is wrong with the map of these units and strings, and encodes with it if nothing is.
  const auto error = [&](std::vector<uint32_t> units, const std::string& strings) {
    const auto bytes = static_cast<uint32_t>(units.size() * sizeof(uint32_t));
    std::string map(reinterpret_cast<const char*>(&bytes), sizeof bytes);
    map.append(reinterpret_cast<const char*>(units.data()), bytes);
    const std::string model = pieces + Field(3, Field(2, map + strings));
    const std::string said = LoadError("tokenizer.model", model);
    if (said != "no error") return said;
    const TemporaryFolder folder;
    folder.Write("tokenizer.model", model);
    EXPECT_THAT(Tokenizer::Load(folder.path())->Encode("b", false), ElementsAre(0, 1));
    return said;
  };
  // One key, 'b': a unit has its label, whether a value is at its children, and where they are.
  constexpr uint32_t kLeaf = 1 << 8, kValue = 1u << 31;
  std::vector<uint32_t> good(256, kValue);
  good[0] = 1 << 10;                         // the root's children are at 1
  good[1 ^ 'b'] = 'b' | kLeaf | 0x80 << 10;  // and those of 'b' at 1 ^ 'b' ^ 0x80
  good[1 ^ 'b' ^ 0x80] = kValue | 2;         // the string at 2
  EXPECT_EQ(error(good, "z\0a\0"s), "no error");

  EXPECT_THAT(error({}, "a\0"s), HasSubstr("wanted a trie"));
  EXPECT_THAT(error(std::vector<uint32_t>(100, kValue), "a\0"s), HasSubstr("into its 100 units"));
  EXPECT_THAT(error(good, ""), HasSubstr("wanted a trie"));
  EXPECT_THAT(error(good, "z\0ab"s), HasSubstr("end with NUL"));
  EXPECT_THAT(error(good, "z\0\xFF\0"s), HasSubstr("UTF-8"));
  EXPECT_THAT(error(good, "z\0"s), HasSubstr("wanted a string within 2 bytes, got one at 2"));
  EXPECT_THAT(error(good, std::string(1025, 'z') + '\0'), HasSubstr("at most 1024 bytes"));
  auto outside = good;
  outside[1 ^ 'b'] = 'b' | 0x400 << 10;
  EXPECT_THAT(error(outside, "z\0a\0"s), HasSubstr("into its 256 units"));
  auto cycle = good;
  cycle[1 ^ 'b'] = 'b' | 'b' << 10;  // its children are at 1, too
  EXPECT_THAT(error(cycle, "z\0a\0"s), HasSubstr("cycle"));
  // b, bb, bbb, ...: each is a key.
  std::vector<uint32_t> chain(256 * 64, kValue);
  chain[0] = 1 << 10;
  for (uint32_t i = 0, base = 1; i < 40; ++i) {
    const uint32_t next = (i + 1) << 8;
    chain[base ^ 'b'] = 'b' | kLeaf | (base ^ 'b' ^ next) << 10;
    base = next;
  }
  EXPECT_THAT(error(chain, "a\0"s),
              HasSubstr("wanted at most 32 keys that begin one another, got 40"));
}

TEST(TokenizerErrors, KeepTheLibraryFromSymbolsThatItHasNoRoomFor) {
  std::string pieces = "\x0A\x05\x0A\x01?\x18\x02";
  for (int count = 1; count <= 65; ++count) {
    pieces += Field(1, Field(1, std::string(count, 'a')) + "\x18\x04");
    EXPECT_THAT(LoadError("tokenizer.model", pieces),
                HasSubstr(count <= 64 ? "no error" : "at most 64 that begin one another"));
  }
  EXPECT_THAT(LoadError("tokenizer.model", Field(1, Field(1, std::string(4097, 'a')))),
              HasSubstr("wanted at most 4096 bytes, got 4097"));
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
