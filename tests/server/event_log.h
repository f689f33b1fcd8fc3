// A sink that keeps what it is told, for tests to wait for and look at.
#pragma once

#include <condition_variable>
#include <functional>
#include <iterator>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/request.h"

namespace fla::testing {

// What one choice got.
struct ChoiceLog {
  std::string text;
  std::vector<int> tokens;
  std::vector<LogprobEntry> logprobs;
  std::vector<LogprobEntry> prompt_logprobs;
  std::vector<float> embedding;
  int finishes = 0;
  bool event_after_finish = false;
  std::optional<Finish> finish;
};

// Thread safety: all methods may be called from any thread.
class EventLog : public EventSink {
 public:
  // `on_event`, if there is one, is called on the engine's thread with each event.
  explicit EventLog(int choices = 1, std::function<void(const Event&)> on_event = {})
      : on_event_(std::move(on_event)), log_(choices) {}

  void Deliver(Event event) override {
    if (on_event_) on_event_(event);
    const std::lock_guard<std::mutex> lock(mutex_);
    ChoiceLog& log = log_.at(event.choice);
    log.event_after_finish |= log.finishes > 0;
    log.text += event.text;
    const auto append = [](auto& to, auto& from) {
      to.insert(to.end(), std::make_move_iterator(from.begin()),
                std::make_move_iterator(from.end()));
    };
    append(log.tokens, event.tokens);
    append(log.logprobs, event.logprobs);
    append(log.prompt_logprobs, event.prompt_logprobs);
    append(log.embedding, event.embedding);
    if (event.finish.has_value()) {
      ++log.finishes;
      log.finish = std::move(event.finish);
      finished_.notify_all();
    }
  }

  // Waits until the choice has finished.
  ChoiceLog Wait(int choice = 0) {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [&] { return log_.at(choice).finishes > 0; });
    return log_.at(choice);
  }
  ChoiceLog Peek(int choice = 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return log_.at(choice);
  }

 private:
  const std::function<void(const Event&)> on_event_;
  std::mutex mutex_;
  std::condition_variable finished_;
  std::vector<ChoiceLog> log_;  // by choice; guarded by mutex_
};

}  // namespace fla::testing
