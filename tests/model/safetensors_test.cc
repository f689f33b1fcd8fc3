#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <span>

#include "tests/testing/checkpoint_writer.h"
#include "tests/testing/temporary_folder.h"
#include "tests/testing/throws.h"

namespace fla {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::SafetensorsFile;
using testing::SafetensorsOf;
using testing::TemporaryFolder;

std::string OpenError(const std::string& bytes) {
  const TemporaryFolder folder;
  folder.Write("model.safetensors", bytes);
  return ErrorOf([&] { Checkpoint::Open(folder.path()); });
}

std::string HeaderError(const std::string& header, size_t payload = 8) {
  return OpenError(SafetensorsFile(header, std::string(payload, 'x')));
}

TEST(Safetensors, ReadsNamesShapesAndData) {
  const TemporaryFolder folder;
  folder.Write("model.safetensors",
               SafetensorsOf({{"a", {{2, 2}, {1, 2, 3, 4}}}, {"b", {{}, {5}}}}));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  ASSERT_EQ(checkpoint.tensors().size(), 2u);
  const StoredTensor& a = checkpoint.tensors().at("a");
  EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(a.elements, 4);
  float third;
  a.source->Read(a.offset + 8, {reinterpret_cast<char*>(&third), sizeof third});
  EXPECT_EQ(third, 3.0f);
  EXPECT_EQ(checkpoint.tensors().at("b").elements, 1);
  EXPECT_EQ(checkpoint.bytes(), 20);
}

TEST(Safetensors, ReadsShardsThatTheIndexNames) {
  const TemporaryFolder folder;
  folder.Write("one.safetensors", SafetensorsOf({{"a", {{1}, {1}}}}));
  folder.Write("two.safetensors", SafetensorsOf({{"b", {{1}, {2}}}}));
  folder.Write("model.safetensors.index.json",
               R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  EXPECT_EQ(Checkpoint::Open(folder.path()).tensors().size(), 2u);
}

TEST(Safetensors, NamesWhatIsWrongWithAnIndex) {
  const TemporaryFolder folder;
  folder.Write("one.safetensors", SafetensorsOf({{"a", {{1}, {1}}}}));
  const auto error = [&](const std::string& index) {
    folder.Write("model.safetensors.index.json", index);
    return ErrorOf([&] { Checkpoint::Open(folder.path()); });
  };
  EXPECT_THAT(error(R"({"weight_map": {"a": "../one.safetensors"}})"),
              AllOf(HasSubstr("weight_map: a"), HasSubstr("in this folder")));
  EXPECT_THAT(error(R"({"weight_map": {"a": "/etc/passwd"}})"), HasSubstr("in this folder"));
  EXPECT_THAT(error(R"({"weight_map": {"a": ".."}})"), HasSubstr("in this folder"));
  EXPECT_THAT(error(R"({"weight_map": {"a": 7}})"), HasSubstr("in this folder"));
  EXPECT_THAT(error(R"({"weight_map": {"b": "one.safetensors"}})"),
              AllOf(HasSubstr("weight_map: b"), HasSubstr("is not in")));
  EXPECT_THAT(error(R"({"weight_map": {"a": "none.safetensors"}})"), HasSubstr("cannot open"));
  EXPECT_THAT(error("[]"), HasSubstr("weight_map"));
  EXPECT_THAT(error("{"), HasSubstr("wanted JSON"));
}

TEST(Safetensors, RefusesMalformedFiles) {
  EXPECT_THAT(OpenError(""), HasSubstr("got 0 bytes"));
  EXPECT_THAT(OpenError("1234567"), HasSubstr("got 7 bytes"));
  EXPECT_THAT(OpenError(std::string(8, '\xff') + "{}"), HasSubstr("header: wanted at most"));
  EXPECT_THAT(HeaderError("[]"), HasSubstr("wanted a JSON object"));
  EXPECT_THAT(HeaderError("{"), HasSubstr("wanted JSON"));
  EXPECT_THAT(HeaderError(R"({"a": 1})"), HasSubstr("tensor a"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}})"),
              AllOf(HasSubstr("tensor a"), HasSubstr("got I64")));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}})"),
              HasSubstr("non-negative"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}})"),
              HasSubstr("truncated"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}})"),
              HasSubstr("data_offsets"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}})"),
              HasSubstr("does not fit"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "F32", "shape": [4611686018427387904, 4],
                             "data_offsets": [0, 8]}})"),
              HasSubstr("does not fit"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                              "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}})"),
              HasSubstr("overlap"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]},
                              "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})"),
              HasSubstr("gap"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})"),
              HasSubstr("8 bytes after the header"));
  EXPECT_THAT(HeaderError(R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                              "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})"),
              HasSubstr("stands twice"));
}

// Each of these would be many times as large in memory as a JSON document.
TEST(Safetensors, EndsAtTheFirstValueThatAHeaderCannotHave) {
  const size_t many = 2'000'000;
  const auto repeated = [&](const std::string& before, const std::string& text) {
    std::string header = before;
    for (size_t i = 0; i < many; ++i) header += text;
    return HeaderError(header);
  };
  EXPECT_THAT(repeated("", "["), HasSubstr("wanted a JSON object, got an array"));
  EXPECT_THAT(repeated(R"({"__metadata__": )", R"({"a":)"), HasSubstr("an object of strings"));
  EXPECT_THAT(repeated(R"({"a": {"dtype": )", "["), HasSubstr("dtype: wanted a string"));
  EXPECT_THAT(repeated(R"({"a": {"dtype": "F32", "shape": [0)", ",0"),
              HasSubstr("at most 16 dimensions"));
  EXPECT_THAT(repeated(R"({"a": {"dtype": "F32", "shape": [], "data_offsets": [0)", ",0"),
              HasSubstr("tensor a"));
  EXPECT_THAT(repeated(R"({"a": {"x": [)", "[],"), HasSubstr("key x: wanted one of dtype"));
}

TEST(Safetensors, ReadsEveryDType) {
  const TemporaryFolder folder;
  folder.Write("model.safetensors", SafetensorsFile(R"({"__metadata__": {"format": "pt"},
      "a": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]},
      "b": {"dtype": "BF16", "shape": [1], "data_offsets": [3, 5]},
      "c": {"dtype": "F16", "shape": [1, 1], "data_offsets": [5, 7]},
      "d": {"dtype": "F32", "shape": [0], "data_offsets": [7, 7]}})",
                                                    std::string(7, 'x')));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  EXPECT_EQ(checkpoint.tensors().at("a").dtype, StoredDType::kF8E4M3);
  EXPECT_EQ(checkpoint.tensors().at("b").dtype, StoredDType::kBF16);
  EXPECT_EQ(checkpoint.tensors().at("c").dtype, StoredDType::kF16);
  EXPECT_EQ(checkpoint.tensors().at("d").elements, 0);
  EXPECT_EQ(checkpoint.bytes(), 7);
}

TEST(Safetensors, DoesNotWaitForWhatIsNoFile) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder.path() / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(ErrorOf([&] { Checkpoint::Open(folder.path()); }), HasSubstr("a regular file"));
  std::filesystem::remove(folder.path() / "model.safetensors");
  std::filesystem::create_directory(folder.path() / "model.safetensors");
  EXPECT_THAT(ErrorOf([&] { Checkpoint::Open(folder.path()); }), HasSubstr("a regular file"));
}

TEST(Safetensors, SaysThatAFileWasCutWhileItWasRead) {
  const TemporaryFolder folder;
  folder.Write("model.safetensors", SafetensorsOf({{"a", {{2}, {1, 2}}}}));
  const Checkpoint checkpoint = Checkpoint::Open(folder.path());
  const StoredTensor& a = checkpoint.tensors().at("a");
  const std::string wanted = std::to_string(a.offset + 8), got = std::to_string(a.offset + 5);
  std::filesystem::resize_file(folder.path() / "model.safetensors", a.offset + 5);
  std::string bytes(8, 0);
  EXPECT_THAT(ErrorOf([&] { a.source->Read(a.offset, bytes); }),
              AllOf(HasSubstr("model.safetensors: wanted " + wanted + " bytes, got " + got),
                    HasSubstr("while it was read")));
}

// Between the pages that were read and those that were not yet; what is read in vain is zeros.
TEST(Safetensors, SurvivesAFileThatIsCutUnderItsReader) {
  constexpr int64_t kFloats = 1 << 20;
  for (const bool grows_again : {false, true}) {
    const TemporaryFolder folder;
    folder.Write("model.safetensors",
                 SafetensorsOf({{"a", {{kFloats}, std::vector<float>(kFloats, 1)}}}));
    const std::filesystem::path file = folder.path() / "model.safetensors";
    const auto size = std::filesystem::file_size(file);
    const Checkpoint checkpoint = Checkpoint::Open(folder.path());
    const StoredTensor& a = checkpoint.tensors().at("a");
    const auto read = [&] {
      a.source->With(a.offset, a.bytes(), [&](std::span<const char> bytes) {
        EXPECT_EQ(bytes[3], 0x3f);
        std::filesystem::resize_file(file, 100'000);
        EXPECT_EQ(bytes[bytes.size() - 1], 0);
        if (grows_again) std::filesystem::resize_file(file, size);
      });
    };
    EXPECT_THAT(ErrorOf(read), AllOf(HasSubstr(file.string()),
                                     HasSubstr(grows_again ? "a page of it could not be had"
                                                           : "got 100000: changed its size")));
    // Nor is anything of it read later.
    EXPECT_THAT(ErrorOf([&] { a.source->With(a.offset, 4, [](auto) {}); }),
                HasSubstr(file.string()));
  }
}

TEST(Safetensors, SaysWhatThereIsInsteadOfTheWeights) {
  const TemporaryFolder folder;
  const auto error = [&] { return ErrorOf([&] { Checkpoint::Open(folder.path()); }); };
  EXPECT_THAT(error(),
              HasSubstr("wanted model.safetensors or model.safetensors.index.json, got none"));
  for (const char* shard : {"5", "4", "3", "2"}) {
    folder.Write(std::string("model-") + shard + ".safetensors", "");
  }
  EXPECT_THAT(error(), EndsWith("got model-2.safetensors, model-3.safetensors, "
                                "model-4.safetensors, model-5.safetensors"));
  folder.Write("model-6.safetensors", "");
  EXPECT_THAT(error(), EndsWith("model-5.safetensors, .."));
  folder.Write("a.bin", "");
  EXPECT_THAT(error(), AllOf(HasSubstr("got a.bin, "), HasSubstr("pickles of PyTorch")));
  std::filesystem::create_symlink("nowhere", folder.path() / "model.safetensors");
  EXPECT_THAT(error(), HasSubstr("model.safetensors: cannot open: No such file"));
}

TEST(Safetensors, KnowsAPointerOfGitLfs) {
  EXPECT_THAT(
      OpenError("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"),
      AllOf(HasSubstr("model.safetensors: wanted a safetensors file"), HasSubstr("git lfs pull")));
}

}  // namespace
}  // namespace fla
