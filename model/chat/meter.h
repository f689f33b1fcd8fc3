// What one rendering may take: a template that would take more is stopped.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fla::chat {

struct RenderLimits {
  int64_t max_steps = 10'000'000;      // nodes evaluated, items gone through, 64 bytes handled
  size_t max_memory_bytes = 64 << 20;  // of values that live at once
  size_t max_output_bytes = 4 << 20;
  int max_depth = 400;  // of nested nodes, macros' bodies included
};

// Thread safety: one thread at a time.
class Meter {
 public:
  explicit Meter(const RenderLimits& limits) : limits_(limits) {}

  // These throw Failure where the limit is passed.
  void Step(int64_t steps = 1) {
    if ((steps_ += steps) > limits_.max_steps) FailSteps();
  }
  void Handle(size_t bytes) { Step(1 + static_cast<int64_t>(bytes / 64)); }
  // Asks whether there would be room for so many more bytes, before they are made.
  void CheckRoom(size_t bytes) const {
    if (bytes > limits_.max_memory_bytes - live_bytes_) FailMemory();
  }
  void Take(size_t bytes) {
    CheckRoom(bytes);
    live_bytes_ += bytes;
  }
  void Give(size_t bytes) { live_bytes_ -= bytes; }

  const RenderLimits& limits() const { return limits_; }

 private:
  [[noreturn]] void FailSteps() const;
  [[noreturn]] void FailMemory() const;

  RenderLimits limits_;
  int64_t steps_ = 0;
  size_t live_bytes_ = 0;
};

}  // namespace fla::chat
