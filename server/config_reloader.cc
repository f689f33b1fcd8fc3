#include "server/config_reloader.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <utility>

namespace fla {
namespace {

// What takes effect without a restart.
const std::set<std::string> kLiveKeys = {"models", "default_model", "model_root", "memory_mib"};

ConfigWatcher::Options WatcherOptions(const ServerOptions& options) {
  ConfigWatcher::Options watcher;
  if (options.checkpoint_poll_seconds > 0) {
    watcher.poll = std::chrono::milliseconds(
        std::max<int64_t>(10, static_cast<int64_t>(options.checkpoint_poll_seconds * 1000)));
  }
  return watcher;
}

}  // namespace

std::vector<std::string> KeysThatNeedARestart(const std::string& before, const std::string& after) {
  using Json = nlohmann::json;
  const Json old = Json::parse(before), now = Json::parse(after);
  std::set<std::string> keys;
  for (const Json* json : {&old, &now}) {
    for (const auto& [key, _] : json->items()) keys.insert(key);
  }
  std::vector<std::string> changed;
  for (const std::string& key : keys) {
    if (kLiveKeys.count(key) == 0 && old.value(key, Json()) != now.value(key, Json())) {
      changed.push_back(key);
    }
  }
  return changed;
}

ConfigReloader::ConfigReloader(std::filesystem::path file, std::string text,
                               const ServerOptions& options, ModelRegistry& registry,
                               Metrics& metrics, std::function<void()> on_trigger)
    : file_(std::move(file)),
      registry_(registry),
      metrics_(metrics),
      on_trigger_(std::move(on_trigger)),
      first_text_(text),
      last_text_(std::move(text)),
      poll_checkpoints_(options.checkpoint_poll_seconds > 0),
      watcher_(
          file_, WatcherOptions(options), [this](bool triggered) { Read(triggered); },
          [this] {
            Read(false);
            if (poll_checkpoints_) registry_.CheckCheckpoints();
          }) {}

void ConfigReloader::Read(bool triggered) {
  if (triggered && on_trigger_) on_trigger_();
  std::string text;
  try {
    text = ReadConfigFile(file_);
  } catch (const std::exception& error) {
    if (triggered || last_error_ != error.what()) {
      last_error_ = error.what();
      Refuse(last_error_);
    }
    return;
  }
  if (!triggered && last_error_.empty() && text == last_text_) return;
  last_error_.clear();
  last_text_ = text;
  try {
    const ServerOptions options = ParseServerOptions(text, file_);
    for (const std::string& key : KeysThatNeedARestart(first_text_, text)) {
      spdlog::warn("config: {}: a change of {} takes effect at the next start", file_.string(),
                   key);
    }
    // May come after this object has gone.
    registry_.Apply(options, [&metrics = metrics_, file = file_.string()](absl::Status status) {
      if (status.ok()) {
        spdlog::info("config: {} is in effect", file);
        metrics.CountConfigReload(true);
      } else if (!absl::IsAborted(status) && !absl::IsUnavailable(status)) {
        metrics.CountConfigReload(false);
      }
    });
  } catch (const std::exception& error) {
    Refuse(error.what());
  }
}

void ConfigReloader::Refuse(const std::string& reason) {
  spdlog::error("config: {}; the configuration goes on as it was", reason);
  registry_.SetConfigError(reason);
  metrics_.CountConfigReload(false);
}

}  // namespace fla
