// A file of a checkpoint, opened once and read by position.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace fla {

// Read by calls instead of being mapped, so that a file that is cut short while it is read is an
// error and no SIGBUS, and so that its pages do not count as memory of the process.
//
// Thread safety: immutable; any thread may read.
class CheckpointFile {
 public:
  // Throws std::runtime_error "file: ..." for what is no regular file or cannot be opened.
  explicit CheckpointFile(const std::filesystem::path& path);
  ~CheckpointFile();
  CheckpointFile(const CheckpointFile&) = delete;
  CheckpointFile& operator=(const CheckpointFile&) = delete;

  const std::string& name() const { return name_; }
  int64_t size() const { return size_; }
  // Fills `target` from byte `offset` on. Throws std::runtime_error if the file ends before that or
  // cannot be read.
  void Read(int64_t offset, std::span<char> target) const;

 private:
  std::string name_;
  int descriptor_;
  int64_t size_ = 0;
};

}  // namespace fla
