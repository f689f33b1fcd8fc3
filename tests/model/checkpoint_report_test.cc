#include "model/checkpoint_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "model/architectures.h"
#include "model/state_pool.h"
#include "tests/testing/checkpoint_writer.h"
#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
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
  EXPECT_EQ(report.state_bytes_per_slot, StateBytesPerSlot(model->config(), DType::kF32));
  EXPECT_EQ(report.tokenizer_vocab_size, model->config().vocab_size);
  int64_t elements = 0;
  for (const auto& [dtype, stored] : report.stored) elements += stored.elements;
  EXPECT_EQ(elements, model->parameters());
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
      const ConfigReader config("config.json", json, {CommonOptions(), architecture.options});
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
