#include "server/config_watcher.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <deque>
#include <string>
#include <system_error>
#include <utility>

namespace fla {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kTrigger = 1;
constexpr uint64_t kStop = uint64_t{1} << 32;
constexpr int kMostLinks = 40;  // as the kernel follows
constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_CREATE | IN_DELETE |
                             IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF |
                             IN_ONLYDIR;

int MillisecondsUntil(Clock::time_point time) {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(time - Clock::now()).count() + 1;
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

}  // namespace

std::vector<std::pair<std::filesystem::path, std::string>> FoldersOnTheWay(
    const std::filesystem::path& file) {
  std::vector<std::pair<std::filesystem::path, std::string>> folders;
  std::filesystem::path at = file.root_path();
  std::deque<std::filesystem::path> rest;
  for (const auto& part : file.relative_path()) rest.push_back(part);
  int links = 0;
  while (!rest.empty()) {
    const std::filesystem::path part = rest.front();
    rest.pop_front();
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      at = at.parent_path();
      continue;
    }
    std::error_code error;
    const bool is_link = std::filesystem::is_symlink(at / part, error);
    if (is_link || rest.empty()) folders.emplace_back(at, part.string());
    if (!is_link) {
      at /= part;
      continue;
    }
    const std::filesystem::path target = std::filesystem::read_symlink(at / part, error);
    if (error || ++links > kMostLinks) break;
    if (target.is_absolute()) at = target.root_path();
    const std::filesystem::path relative = target.relative_path();
    rest.insert(rest.begin(), relative.begin(), relative.end());
  }
  return folders;
}

ConfigWatcher::Descriptor::Descriptor(int value, const char* what) : value_(value) {
  if (value < 0) throw std::system_error(errno, std::generic_category(), what);
}

ConfigWatcher::Descriptor::~Descriptor() { close(value_); }

ConfigWatcher::ConfigWatcher(std::filesystem::path file, const Options& options,
                             std::function<void(bool)> on_change, std::function<void()> on_poll)
    : file_(std::filesystem::absolute(file)),
      options_(options),
      on_change_(std::move(on_change)),
      on_poll_(std::move(on_poll)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"),
      notify_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify_init1") {
  WatchFolders();  // before this returns: what changes from now on is seen
  thread_ = std::thread([this] { Run(); });
}

ConfigWatcher::~ConfigWatcher() {
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &kStop, sizeof kStop);
  thread_.join();
}

void ConfigWatcher::Trigger() {
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &kTrigger, sizeof kTrigger);
}

// Watching a folder again does nothing; one that has gone takes its watch along. Folders that are
// no longer on the way stay watched, which costs a look at the file at most.
void ConfigWatcher::WatchFolders() {
  for (const auto& [folder, _] : FoldersOnTheWay(file_)) {
    inotify_add_watch(notify_.get(), folder.c_str(), kEvents);  // if it fails, on_poll is left
  }
}

bool ConfigWatcher::ReadEvents() {
  alignas(inotify_event) char buffer[16384];
  const auto folders = FoldersOnTheWay(file_);
  bool concerns = false;
  while (true) {
    const ssize_t size = read(notify_.get(), buffer, sizeof buffer);
    if (size <= 0) return concerns;
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      at += static_cast<ssize_t>(sizeof(inotify_event)) + event->len;
      // An event without a name is of the folder itself, or says that events were lost.
      const std::string name = event->len > 0 ? event->name : "";
      concerns = concerns || name.empty() ||
                 std::any_of(folders.begin(), folders.end(),
                             [&](const auto& folder) { return folder.second == name; });
    }
  }
}

void ConfigWatcher::Run() {
  // The first at once, for what came before the watch.
  Clock::time_point next_poll = Clock::now();
  Clock::time_point first{}, last{};  // of the events not yet told; the epoch: none
  while (true) {
    Clock::time_point until = next_poll;
    if (first != Clock::time_point{}) {
      until = std::min(until, std::min(last + options_.quiet, first + options_.longest));
    }
    pollfd descriptors[] = {{wake_.get(), POLLIN, 0}, {notify_.get(), POLLIN, 0}};
    poll(descriptors, 2, MillisecondsUntil(until));

    uint64_t woken = 0;
    if (read(wake_.get(), &woken, sizeof woken) < 0) woken = 0;
    if (woken >= kStop) return;
    if (ReadEvents()) {
      last = Clock::now();
      if (first == Clock::time_point{}) first = last;
    }
    const Clock::time_point now = Clock::now();
    const bool at_rest = first != Clock::time_point{} &&
                         (now >= last + options_.quiet || now >= first + options_.longest);
    if (woken > 0 || at_rest) {
      first = last = {};
      WatchFolders();
      on_change_(woken > 0);
    }
    if (now >= next_poll) {
      next_poll = now + options_.poll;
      WatchFolders();
      on_poll_();
    }
  }
}

}  // namespace fla
