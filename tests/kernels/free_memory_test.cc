#include "kernels/cpu/free_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/testing/temporary_folder.h"

namespace fla::cpu {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

class FreeMemoryTest : public ::testing::Test {
 protected:
  FreeMemoryTest() {
    Write("proc/meminfo", "MemTotal: 9999 kB\nMemAvailable:    1048576 kB\nHugePages_Total: 0\n");
  }
  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder_.path() / name).parent_path());
    folder_.Write(name, text);
  }
  void WriteGroup(const std::string& path, const std::string& limit, size_t usage,
                  size_t of_files) {
    Write(path + "/memory.max", limit + "\n");
    Write(path + "/memory.current", std::to_string(usage) + "\n");
    Write(path + "/memory.stat", "anon 1\nfile 7\ninactive_file " + std::to_string(of_files / 2) +
                                     "\nactive_file " + std::to_string(of_files / 2) + "\n");
  }
  size_t Free() const { return FreeMemory(folder_.path()); }

  testing::TemporaryFolder folder_;
};

TEST_F(FreeMemoryTest, IsTheSystemsWithoutGroups) { EXPECT_EQ(Free(), 1024 * kMiB); }

TEST_F(FreeMemoryTest, IsWhatAContainersGroupLeaves) {
  Write("proc/self/cgroup", "0::/\n");
  WriteGroup("sys/fs/cgroup", std::to_string(512 * kMiB), 300 * kMiB, 100 * kMiB);
  EXPECT_EQ(Free(), 312 * kMiB);
  WriteGroup("sys/fs/cgroup", std::to_string(512 * kMiB), 600 * kMiB, 0);
  EXPECT_EQ(Free(), 0u);
  WriteGroup("sys/fs/cgroup", "max", 300 * kMiB, 0);
  EXPECT_EQ(Free(), 1024 * kMiB);
}

TEST_F(FreeMemoryTest, IsBoundedByEveryGroupOnTheWayUp) {
  Write("proc/self/cgroup", "0::/pods/one\n");
  WriteGroup("sys/fs/cgroup/pods/one", "max", 10 * kMiB, 0);
  WriteGroup("sys/fs/cgroup/pods", std::to_string(64 * kMiB), 10 * kMiB, 0);
  EXPECT_EQ(Free(), 54 * kMiB);
}

TEST_F(FreeMemoryTest, KnowsVersion1) {
  Write("proc/self/cgroup", "5:devices:/a\n4:cpu,memory:/host/path\n0::/\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(256 * kMiB));
  Write("sys/fs/cgroup/memory/memory.usage_in_bytes", std::to_string(200 * kMiB));
  Write("sys/fs/cgroup/memory/memory.stat", "cache 5\ninactive_file 1\ntotal_inactive_file " +
                                                std::to_string(20 * kMiB) + "\ntotal_active_file " +
                                                std::to_string(30 * kMiB) + "\n");
  EXPECT_EQ(Free(), 106 * kMiB);
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  EXPECT_EQ(Free(), 1024 * kMiB);
}

}  // namespace
}  // namespace fla::cpu
