#include "model/guarded_map.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using testing::TemporaryFolder;

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
constexpr size_t kPages = 10;

// A file of kPages pages of 'x'.
class PagesFile {
 public:
  PagesFile() {
    folder_.Write("file", std::string(kPages * kPage, 'x'));
    descriptor_ = open(path().c_str(), O_RDONLY | O_CLOEXEC);
  }
  ~PagesFile() { close(descriptor_); }

  std::filesystem::path path() const { return folder_.path() / "file"; }
  int descriptor() const { return descriptor_; }
  void Cut(size_t bytes) const { std::filesystem::resize_file(path(), bytes); }
  std::unique_ptr<GuardedMap> Map() const {
    return std::make_unique<GuardedMap>(descriptor_, kPages * kPage);
  }

 private:
  TemporaryFolder folder_;
  int descriptor_;
};

char At(const char* bytes, size_t index) { return static_cast<const volatile char*>(bytes)[index]; }

TEST(GuardedMap, ReadsAFile) {
  const PagesFile file;
  const auto map = file.Map();
  for (size_t i = 0; i < map->size(); ++i) ASSERT_EQ(At(map->data(), i), 'x');
  EXPECT_FALSE(map->broken());
}

TEST(GuardedMap, ThrowsForWhatCannotBeMapped) {
  EXPECT_THROW(GuardedMap(-1, kPage), std::system_error);
}

TEST(GuardedMap, ReadsZerosAndBreaksWhereAFileWasCut) {
  const PagesFile file, whole;
  const auto map = file.Map(), other = whole.Map();
  file.Cut(3 * kPage);
  EXPECT_EQ(At(map->data(), 2 * kPage), 'x');
  EXPECT_FALSE(map->broken());
  errno = 77;
  EXPECT_EQ(At(map->data(), 5 * kPage + 3), 0);
  EXPECT_EQ(errno, 77);
  EXPECT_TRUE(map->broken());
  for (size_t i = 0; i < map->size(); ++i) ASSERT_EQ(At(map->data(), i), 0);
  file.Cut(kPages * kPage);
  EXPECT_TRUE(map->broken());
  EXPECT_EQ(At(other->data(), 5 * kPage), 'x');
  EXPECT_FALSE(other->broken());
  EXPECT_FALSE(file.Map()->broken());
}

// Threads that read a file while it is cut, beside others that make maps, read and free them.
TEST(GuardedMap, BreaksUnderManyReaders) {
  const PagesFile whole;
  std::atomic<bool> ended = false;
  std::vector<std::thread> others;
  for (int i = 0; i < 2; ++i) {
    others.emplace_back([&] {
      while (!ended) {
        const auto map = whole.Map();
        for (size_t page = 0; page < kPages; ++page) {
          ASSERT_EQ(At(map->data(), page * kPage), 'x');
        }
        ASSERT_FALSE(map->broken());
      }
    });
  }
  for (int round = 0; round < 50; ++round) {
    const PagesFile file;
    const auto map = file.Map();
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; ++i) {
      readers.emplace_back([&] {
        while (!map->broken()) {
          for (size_t page = 0; page < kPages; ++page) {
            // Who sees zeros sees that they are none of the file's.
            if (At(map->data(), page * kPage) != 0) continue;
            ASSERT_TRUE(map->broken());
          }
        }
      });
    }
    file.Cut(0);
    for (std::thread& reader : readers) reader.join();
  }
  ended = true;
  for (std::thread& other : others) other.join();
}

// A bus error of a page that no GuardedMap has.
void ReadBeyondAFile(const PagesFile& file) {
  void* const memory = mmap(nullptr, kPages * kPage, PROT_READ, MAP_PRIVATE, file.descriptor(), 0);
  file.Cut(kPage);
  At(static_cast<const char*>(memory), 5 * kPage);
}

// Killed by the signal, or ended by a sanitizer that reports it.
bool DiedOfABusError(int status) {
  return WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0;
}

TEST(GuardedMapDeathTest, LeavesOtherBusErrorsDeadly) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const PagesFile file;
  const auto map = file.Map();
  EXPECT_EXIT(ReadBeyondAFile(PagesFile()), DiedOfABusError, "");
  EXPECT_EXIT(kill(getpid(), SIGBUS), DiedOfABusError, "");
}

TEST(GuardedMapDeathTest, HandsOnWhatIsNotItsOwn) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto plain = [] {
    signal(SIGBUS, [](int) { _exit(41); });
    const PagesFile file, other;
    const auto map = file.Map();
    file.Cut(0);
    if (At(map->data(), 0) == 0) ReadBeyondAFile(other);
  };
  EXPECT_EXIT(plain(), ::testing::ExitedWithCode(41), "");
  const auto detailed = [] {
    struct sigaction action {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = [](int, siginfo_t* details, void*) {
      _exit(details->si_addr != nullptr ? 42 : 1);
    };
    sigaction(SIGBUS, &action, nullptr);
    const PagesFile file, other;
    const auto map = file.Map();
    ReadBeyondAFile(other);
  };
  EXPECT_EXIT(detailed(), ::testing::ExitedWithCode(42), "");
  const auto ignored = [] {
    signal(SIGBUS, SIG_IGN);
    const PagesFile file;
    const auto map = file.Map();
    kill(getpid(), SIGBUS);
    _exit(43);
  };
  EXPECT_EXIT(ignored(), ::testing::ExitedWithCode(43), "");
}

}  // namespace
}  // namespace fla
