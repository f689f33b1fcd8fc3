#include "server/model_version.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <stdexcept>

#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

class ModelVersionTest : public ::testing::Test {
 protected:
  ModelVersionTest() {
    folder_.Write("config.json", "{}");
    folder_.Write("model.safetensors", "weights");
    options_.path = folder_.path();
    options_.device = "cpu";
  }
  std::string Version() const { return ModelVersion(options_); }

  testing::TemporaryFolder folder_;
  ModelOptions options_;
};

TEST_F(ModelVersionTest, IsTheSameForTheSameFiles) {
  EXPECT_EQ(Version().size(), 12u);
  EXPECT_EQ(Version(), Version());
  const std::string before = Version();
  folder_.Write("README.md", "what is no part of the model");
  EXPECT_EQ(Version(), before);
}

TEST_F(ModelVersionTest, ChangesWithSizeTimeInodeAndNames) {
  std::set<std::string> seen = {Version()};
  const auto expect_new = [&] { EXPECT_TRUE(seen.insert(Version()).second); };
  const std::filesystem::path file = folder_.path() / "model.safetensors";
  folder_.Write("model.safetensors", "more weights");
  expect_new();
  const auto time = std::filesystem::last_write_time(file);
  std::filesystem::last_write_time(file, time + std::chrono::nanoseconds(1000));
  expect_new();
  // Another file of the same name, size and time.
  folder_.Write("other", "more weights");
  std::filesystem::last_write_time(folder_.path() / "other", time + std::chrono::nanoseconds(1000));
  std::filesystem::rename(folder_.path() / "other", file);
  expect_new();
  folder_.Write("tokenizer.json", "{}");
  expect_new();
  std::filesystem::rename(folder_.path() / "tokenizer.json", folder_.path() / "tokenizer.model");
  expect_new();
}

TEST_F(ModelVersionTest, FollowsLinks) {
  folder_.Write("blob1", "weights");
  folder_.Write("blob2", "weights");
  std::filesystem::remove(folder_.path() / "model.safetensors");
  std::filesystem::create_symlink("blob1", folder_.path() / "model.safetensors");
  const std::string before = Version();
  std::filesystem::remove(folder_.path() / "model.safetensors");
  std::filesystem::create_symlink("blob2", folder_.path() / "model.safetensors");
  EXPECT_NE(Version(), before);
}

TEST_F(ModelVersionTest, ChangesWithWhatTokensDependOn) {
  const std::string before = Version();
  options_.dtype = DType::kBF16;
  EXPECT_NE(Version(), before);
  options_.dtype = DType::kF32;
  options_.slots = 3;
  EXPECT_EQ(Version(), before);
  EXPECT_NE(LoadKey(options_, before), LoadKey(ModelOptions(), before));
}

TEST_F(ModelVersionTest, NamesAFolderThatCannotBeRead) {
  options_.path = folder_.path() / "nowhere";
  try {
    Version();
    ADD_FAILURE() << "taken";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("nowhere"), std::string::npos);
  }
}

}  // namespace
}  // namespace fla
