// Notices that a file has changed, however it is changed.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

namespace fla {

// Watches the folders that decide what a path means: that of the file and those of the symbolic
// links on the way to it. So it sees a file that is written in place, one that is renamed over it,
// and a ConfigMap of Kubernetes, where a link to a folder is exchanged. What it cannot see (a file
// system without notifications, an exchanged parent folder) is left to `on_poll`.
//
// Thread safety: Trigger may be called from any thread.
class ConfigWatcher {
 public:
  struct Options {
    // `on_change` is called when nothing has happened for `quiet`, at the latest after `longest`.
    std::chrono::milliseconds quiet{100};
    std::chrono::milliseconds longest{1000};
    std::chrono::milliseconds poll{5000};  // `on_poll` is called at once and then so often
  };
  // Both functions are called on the watcher's own thread and must not throw; `on_change` hears
  // whether it was triggered. It may be called when the file has the contents it had. Throws
  // std::system_error where the system has no more watches to give.
  ConfigWatcher(std::filesystem::path file, const Options& options,
                std::function<void(bool triggered)> on_change, std::function<void()> on_poll);
  ~ConfigWatcher();

  // As if the file had changed, at once.
  void Trigger();

 private:
  // A file descriptor that is closed with its owner.
  class Descriptor {
   public:
    explicit Descriptor(int value, const char* what);
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int get() const { return value_; }

   private:
    int value_;
  };

  void Run();
  void WatchFolders();
  // Reads what there is; true if some of it concerns the file.
  bool ReadEvents();

  const std::filesystem::path file_;
  const Options options_;
  const std::function<void(bool)> on_change_;
  const std::function<void()> on_poll_;
  Descriptor wake_;  // an eventfd: kTrigger and kStop are added to it
  Descriptor notify_;
  std::thread thread_;  // last: starts when all else is there
};

// The folders in which a change may make `file`, an absolute path, mean something else, and for
// each the names that matter. Follows symbolic links; what is missing ends the walk.
std::vector<std::pair<std::filesystem::path, std::string>> FoldersOnTheWay(
    const std::filesystem::path& file);

}  // namespace fla
