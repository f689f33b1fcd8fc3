#include "server/config_watcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "server/config_reloader.h"
#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using std::filesystem::create_directory;
using std::filesystem::create_directory_symlink;
using std::filesystem::create_symlink;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

// Counts what a watcher tells.
class WatcherTest : public ::testing::Test {
 protected:
  void Watch(const std::filesystem::path& file,
             std::chrono::milliseconds poll = std::chrono::hours(1),
             std::chrono::milliseconds quiet = std::chrono::milliseconds(50)) {
    ConfigWatcher::Options options;
    options.quiet = quiet;
    options.longest = 8 * quiet;
    options.poll = poll;
    watcher_ = std::make_unique<ConfigWatcher>(
        file, options, [this](bool triggered) { Count(triggered ? triggers_ : changes_); },
        [this] { Count(polls_); });
  }
  void Count(int& counter) {
    const std::lock_guard lock(mutex_);
    ++counter;
    changed_.notify_all();
  }
  int Changes() {
    const std::lock_guard lock(mutex_);
    return changes_;
  }
  // Waits until the counter has the value, and a while longer for more than that.
  void Expect(const int& counter, int value) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(20), [&] { return counter >= value; });
    changed_.wait_for(lock, std::chrono::milliseconds(200), [&] { return counter > value; });
    EXPECT_EQ(counter, value);
  }

  testing::TemporaryFolder folder_;
  const std::filesystem::path root_ = std::filesystem::canonical(folder_.path());
  std::mutex mutex_;
  std::condition_variable changed_;
  int changes_ = 0, triggers_ = 0, polls_ = 0;  // guarded by mutex_
  std::unique_ptr<ConfigWatcher> watcher_;      // last: ends first
};

TEST_F(WatcherTest, SeesAFileThatIsWrittenInPlace) {
  folder_.Write("c.json", "1");
  Watch(root_ / "c.json");
  folder_.Write("c.json", "22");
  Expect(changes_, 1);
  folder_.Write("c.json", "33");
  Expect(changes_, 2);
}

TEST_F(WatcherTest, SeesAFileThatIsRenamedOverAgainAndAgain) {
  folder_.Write("c.json", "1");
  Watch(root_ / "c.json");
  for (int i = 1; i <= 3; ++i) {
    folder_.Write("new", "2");
    std::filesystem::rename(root_ / "new", root_ / "c.json");
    Expect(changes_, i);
  }
}

TEST_F(WatcherTest, SeesAFileThatGoesAndComes) {
  folder_.Write("c.json", "1");
  Watch(root_ / "c.json");
  std::filesystem::remove(root_ / "c.json");
  Expect(changes_, 1);
  folder_.Write("c.json", "1");
  Expect(changes_, 2);
}

TEST_F(WatcherTest, TakesABurstForOneChange) {
  // Long for twenty writes, also on a machine with too much to do.
  constexpr auto kQuiet = std::chrono::milliseconds(1000);
  folder_.Write("c.json", "1");
  Watch(root_ / "c.json", std::chrono::hours(1), kQuiet);
  for (int attempt = 0; attempt < 5; ++attempt) {
    const int before = Changes();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 20; ++i) folder_.Write("c.json", std::string(i, 'x'));
    if (std::chrono::steady_clock::now() - begin < kQuiet) {
      return Expect(changes_, before + 1);
    }
    // The machine paused within the burst, which then may count as two.
    std::this_thread::sleep_for(10 * kQuiet);
  }
  FAIL() << "twenty files cannot be written within " << kQuiet.count() << " ms";
}

TEST_F(WatcherTest, DoesNotWaitForEverForRest) {
  folder_.Write("c.json", "1");
  Watch(root_ / "c.json");
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    while (!stop) {
      folder_.Write("c.json", "2");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(20), [&] { return changes_ >= 2; }));
  }
  stop = true;
  writer.join();
}

TEST_F(WatcherTest, LeavesOtherFilesOut) {
  folder_.Write("c.json", "1");
  Watch(root_ / "c.json");
  folder_.Write("other.json", "2");
  std::filesystem::rename(root_ / "other.json", root_ / "another.json");
  Expect(changes_, 0);
}

// As kubelet does it: c.json -> ..data/c.json, ..data -> ..1, and ..data is exchanged.
TEST_F(WatcherTest, SeesAConfigMapThatIsExchanged) {
  for (const char* version : {"..1", "..2", "..3"}) {
    create_directory(root_ / version);
    folder_.Write(std::string(version) + "/c.json", version);
  }
  create_directory_symlink("..1", root_ / "..data");
  create_symlink("..data/c.json", root_ / "c.json");
  Watch(root_ / "c.json");
  int seen = 0;
  for (const char* version : {"..2", "..3"}) {
    create_directory_symlink(version, root_ / "..data_tmp");
    std::filesystem::rename(root_ / "..data_tmp", root_ / "..data");
    Expect(changes_, ++seen);
    EXPECT_EQ(ReadConfigFile(root_ / "c.json"), version);
  }
  folder_.Write("..3/c.json", "in place");
  Expect(changes_, ++seen);
}

TEST_F(WatcherTest, TellsATriggerFromAChangeAndPolls) {
  folder_.Write("c.json", "1");
  Watch(root_ / "c.json", std::chrono::milliseconds(1500));
  Expect(polls_, 1);  // at once: the file may have changed before the watch began
  watcher_->Trigger();
  Expect(triggers_, 1);
  EXPECT_EQ(changes_, 0);
  Expect(polls_, 2);
}

TEST_F(WatcherTest, FindsTheFoldersOnTheWay) {
  create_directory(root_ / "a");
  create_directory(root_ / "b");
  folder_.Write("b/file", "");
  create_directory_symlink("../b", root_ / "a" / "link");
  create_symlink(root_ / "a" / "link" / "file", root_ / "c.json");
  EXPECT_THAT(
      FoldersOnTheWay(root_ / "c.json"),
      ElementsAre(Pair(root_, "c.json"), Pair(root_ / "a", "link"), Pair(root_ / "b", "file")));
  create_symlink("loop", root_ / "loop");
  EXPECT_EQ(FoldersOnTheWay(root_ / "loop").size(), 41u);
}

TEST(ConfigReloader, NamesKeysThatNeedARestart) {
  EXPECT_THAT(KeysThatNeedARestart(R"({"models": [1], "listen": "a"})",
                                   R"({"models": [2], "default_model": "x", "listen": "a"})"),
              IsEmpty());
  EXPECT_THAT(KeysThatNeedARestart(R"({"listen": "a", "log": {"level": "info"}, "tls": {}})",
                                   R"({"listen": "b", "log": {"level": "debug"}, "limits": {}})"),
              ElementsAre("limits", "listen", "log", "tls"));
}

}  // namespace
}  // namespace fla
