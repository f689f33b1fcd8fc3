#include "model/checkpoint_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "model/architectures.h"
#include "model/state_pool.h"
#include "tests/testing/checkpoint_writer.h"
#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Pair;
using testing::TemporaryFolder;

const std::filesystem::path kSource = FLA_SOURCE_DIR;

std::string TextOf(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

TEST(CheckpointReport, SaysWhatAModelIsAndCosts) {
  const CheckpointReport report = ExamineCheckpoint(kSource / "demo/model");
  EXPECT_THAT(report.problems, IsEmpty());
  EXPECT_THAT(report.notes, IsEmpty());
  const auto model = Model::Load({.path = kSource / "demo/model", .dtype = DType::kBF16});
  ASSERT_TRUE(report.config && report.as_f32 && report.as_bf16);
  EXPECT_EQ(report.as_bf16->parameters, model->parameters());
  EXPECT_LE(report.as_bf16->bytes, model->weight_bytes());  // which may hold a part in two orders
  EXPECT_GE(report.as_bf16->bytes, 2 * model->parameters());
  EXPECT_GT(report.as_f32->bytes, report.as_bf16->bytes);
  EXPECT_EQ(report.state_bytes_per_slot, StateBytesPerSlot(model->config(), StateFormat()));
  ASSERT_TRUE(report.tokenizer);
  EXPECT_EQ(report.tokenizer->vocab_size, model->config().vocab_size);
  int64_t elements = 0;
  for (const auto& [dtype, stored] : report.stored) elements += stored.elements;
  EXPECT_EQ(elements, model->parameters());
}

// (id, the files that say so)
std::vector<std::pair<int, std::vector<std::string>>> Shown(
    const std::vector<CheckpointReport::EndToken>& tokens) {
  std::vector<std::pair<int, std::vector<std::string>>> shown;
  for (const auto& token : tokens) shown.emplace_back(token.id, token.files);
  return shown;
}

TEST(CheckpointReport, SaysWhichFileNamesWhichToken) {
  const TemporaryFolder folder;
  auto config = nlohmann::json::parse(TextOf(kSource / "tests/golden/gla/config.json"));
  config["bos_token_id"] = 2;
  config["eos_token_id"] = {1, 3};
  folder.Write("config.json", config.dump());
  folder.Write("generation_config.json",
               R"({"eos_token_id": [3, 4], "temperature": 0.5, "top_k": 7})");
  folder.Write("tokenizer.json", R"({"added_tokens": [], "decoder": {"type": "Fuse"},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
  folder.Write("tokenizer_config.json", R"({"bos_token": "a", "add_bos_token": true,
      "eos_token": {"content": "b"}, "chat_template": "{{ messages }}"})");
  const CheckpointReport report = ExamineCheckpoint(folder.path());
  ASSERT_TRUE(report.tokenizer && report.config);
  EXPECT_EQ(report.tokenizer->origin.file, "tokenizer.json");
  EXPECT_EQ(report.tokenizer->origin.kind, "BPE");
  EXPECT_EQ(report.tokenizer->origin.prefix, std::vector<int>{0});
  EXPECT_THAT(report.tokenizer->origin.suffix, IsEmpty());
  EXPECT_EQ(report.tokenizer->vocab_size, 3);
  EXPECT_THAT(Shown(report.bos), ElementsAre(Pair(2, ElementsAre("config.json")),
                                             Pair(0, ElementsAre("tokenizer_config.json"))));
  EXPECT_THAT(Shown(report.eos),
              ElementsAre(Pair(1, ElementsAre("config.json", "tokenizer_config.json")),
                          Pair(3, ElementsAre("config.json", "generation_config.json")),
                          Pair(4, ElementsAre("generation_config.json"))));
  EXPECT_THAT(report.chat_templates, ElementsAre(Pair("default", "tokenizer_config.json")));
  EXPECT_EQ(report.config->generation.top_k, 7);
}

TEST(CheckpointReport, SaysWhatKindATokenizerIs) {
  const nlohmann::json cases =
      nlohmann::json::parse(TextOf(kSource / "tests/model/data/tokenizer_cases.json"));
  std::map<std::string, std::string> kinds;  // by the case's name
  for (const auto& entry : cases["cases"]) {
    const TemporaryFolder folder;
    if (entry.contains("file")) {
      std::string bytes;
      const std::string hex = entry["hex"];
      for (size_t i = 0; i < hex.size(); i += 2) {
        bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
      }
      folder.Write(entry["file"], bytes);
    } else if (entry["tokenizer"]["model"] != "demo") {
      folder.Write("tokenizer.json", entry["tokenizer"].dump());
    } else {
      continue;
    }
    const std::string name = entry["name"];
    kinds[name.substr(0, name.find(" ["))] = Tokenizer::Load(folder.path())->origin().kind;
  }
  EXPECT_EQ(kinds["bpe, byte fallback"], "BPE with byte fallback");
  EXPECT_EQ(kinds["bpe, no unknown"], "BPE");
  EXPECT_EQ(kinds["unigram"], "Unigram");
  EXPECT_EQ(kinds["sentencepiece bpe"], "sentencepiece BPE");
  EXPECT_EQ(kinds["sentencepiece unigram"], "sentencepiece UNIGRAM");
  EXPECT_EQ(kinds["rwkv"], "longest match");
  EXPECT_EQ(Tokenizer::Load(kSource / "demo/model")->origin().kind, "byte-level BPE");
}

TEST(CheckpointReport, NamesEveryProblemOfAConfig) {
  const TemporaryFolder folder;
  folder.Write("config.json", R"({"model_type": "gla", "attn": {"layers": [1]}, "use_gv": true,
      "hidden_act": "gelu", "vocab_size": "big", "clamp_min": "low", "head_first": true})");
  folder.Write("generation_config.json", R"({"top_p": 7})");
  const CheckpointReport report = ExamineCheckpoint(folder.path());
  for (const char* problem : {"attn: wanted null (not supported: hybrids", "use_gv: wanted false",
                              "hidden_act: wanted one of swish, silu",
                              "vocab_size: wanted an integer", "clamp_min: wanted a number",
                              "generation_config.json: top_p", "model.safetensors", "tokenizer"}) {
    EXPECT_THAT(report.problems, Contains(HasSubstr(problem)));
  }
  EXPECT_THAT(report.notes, Contains(HasSubstr("head_first is not known")));
}

TEST(CheckpointReport, NamesKeysThatAnotherModelReads) {
  const TemporaryFolder folder;
  folder.Write("config.json", R"({"model_type": "flash_linear_attention", "embed_dim": 8,
      "num_hidden_layers": 2, "norm_eps": 1e-6, "lower_bound": -5})");
  EXPECT_THAT(
      ExamineCheckpoint(folder.path()).notes,
      IsSupersetOf({HasSubstr("num_hidden_layers is not known"), HasSubstr("norm_eps is not known"),
                    HasSubstr("lower_bound is not known")}));
}

TEST(CheckpointReport, NamesEveryTensorThatDoesNotFit) {
  const TemporaryFolder folder;
  folder.Write("config.json", TextOf(kSource / "tests/golden/gla/config.json"));
  std::filesystem::copy(kSource / "demo/model/tokenizer.json", folder.path() / "tokenizer.json");
  folder.Write("model.safetensors",
               testing::SafetensorsOf(std::map<std::string, testing::FloatTensor>{
                   {"model.norm.weight", {{2}, {1, 2}}}, {"extra", {{1}, {1}}}}));
  const CheckpointReport report = ExamineCheckpoint(folder.path());
  EXPECT_THAT(report.problems, Contains(HasSubstr("model.embeddings.weight")));
  EXPECT_THAT(report.problems, Contains(HasSubstr("model.layers.1.attn.gk_proj.1.bias")));
  EXPECT_THAT(report.problems,
              Contains(HasSubstr("model.norm.weight: wanted shape [64], got [2]")));
  EXPECT_THAT(report.problems, Contains(HasSubstr("tensor extra of shape [1] has no place")));
  EXPECT_THAT(report.notes, Contains(HasSubstr("the tokenizer has 4096 tokens, the model 256")));
  // Whatever is wrong with other files.
  folder.Write("generation_config.json", R"({"top_p": 7})");
  EXPECT_THAT(ExamineCheckpoint(folder.path()).problems,
              IsSupersetOf({HasSubstr("top_p"), HasSubstr("tensor extra of shape [1]")}));
}

TEST(CheckpointReport, BoundsWhatItSays) {
  const TemporaryFolder folder;
  folder.Write("config.json", R"({"model_type": "gla", "num_hidden_layers": 16000000})");
  folder.Write("model.safetensors", testing::SafetensorsOf({{"extra", {{1}, {1}}}}));
  const CheckpointReport report = ExamineCheckpoint(folder.path());
  EXPECT_LE(report.problems.size(), 110u);
  EXPECT_THAT(report.problems, Contains("and more"));
}

TEST(CheckpointReport, SurvivesAnEmptyFolder) {
  const TemporaryFolder folder;
  const CheckpointReport report = ExamineCheckpoint(folder.path());
  EXPECT_FALSE(report.config);
  EXPECT_EQ(report.problems.size(), 3u);  // config, weights, tokenizer
}

// The tables and the code: what is read is declared (else ConfigReader throws), and what is
// declared is read by some configuration.
TEST(SupportTable, DeclaresNothingThatIsNotRead) {
  const char* everything[] = {
      "{}",
      R"({"use_short_conv": true, "feature_map": null, "safe_gate": true, "lower_bound": -5})",
      R"({"use_short_conv": true, "use_output_gate": true, "use_gate": true, "embed_dim": 8})"};
  for (const Architecture& architecture : Architectures()) {
    std::set<std::string> read;
    for (const char* text : everything) {
      const nlohmann::json json = nlohmann::json::parse(text);
      const ConfigReader config("config.json", json, OptionsOf(architecture));
      architecture.read_mixer(config, 2048);
      read.insert(config.keys_read().begin(), config.keys_read().end());
    }
    // Read with the sizes of the model, not with the mixer.
    for (const char* key : {"embed_dim", "num_layers", "output", "norm_first"}) read.insert(key);
    for (const ConfigOption& option : architecture.options) {
      EXPECT_TRUE(read.count(std::string(option.key)) == 1)
          << architecture.model_type << ": " << option.key;
    }
  }
}

TEST(SupportTable, IsTheOneInTheDocuments) {
  EXPECT_THAT(TextOf(kSource / "docs/models.md"), HasSubstr(SupportTable()))
      << "docs/models.md lacks what `fla-server --print-support-table` prints";
}

}  // namespace
}  // namespace fla
