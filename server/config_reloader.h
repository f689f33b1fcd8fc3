// From a config file that has changed to a registry that serves what it says, or to a reason why
// not.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "server/config_watcher.h"
#include "server/metrics.h"
#include "server/model_registry.h"
#include "server/options.h"

namespace fla {

// The keys of a config file that have other values in another and take effect at a start only.
std::vector<std::string> KeysThatNeedARestart(const std::string& before, const std::string& after);

// Reads the file again when it changes or Trigger is called, and gives it to the registry, if it is
// sound. Looks at the models' checkpoints now and then, too.
//
// Thread safety: Trigger may be called from any thread.
class ConfigReloader {
 public:
  // `text`: of the file, as the registry has it. `on_trigger` is called when Trigger was, before
  // the file is read: for what else is read again then. registry and metrics must outlive this.
  ConfigReloader(std::filesystem::path file, std::string text, const ServerOptions& options,
                 ModelRegistry& registry, Metrics& metrics, std::function<void()> on_trigger);

  // Reads the file again even if it looks the same, and loads checkpoints that have changed.
  void Trigger() { watcher_.Trigger(); }

 private:
  // The watcher's thread.
  void Read(bool triggered);
  void Refuse(const std::string& reason);

  const std::filesystem::path file_;
  ModelRegistry& registry_;
  Metrics& metrics_;
  const std::function<void()> on_trigger_;
  const std::string first_text_;  // what needs a restart is as here
  // Of the watcher's thread.
  std::string last_text_;   // as read last
  std::string last_error_;  // of the last reading; empty: it could be read
  bool poll_checkpoints_;
  ConfigWatcher watcher_;  // last: starts when all else is there
};

}  // namespace fla
