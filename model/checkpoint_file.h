// A file of a checkpoint, mapped and read by position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "model/guarded_map.h"

namespace fla {

// One that is cut short or whose disk fails while it is read is an error, and no SIGBUS (see
// guarded_map.h). Pages are unmapped once they were read: what was read does not add up to memory
// of the process.
//
// Thread safety: immutable; any thread may read.
class CheckpointFile {
 public:
  // Throws std::runtime_error "file: ..." for what is no regular file, cannot be opened or mapped.
  explicit CheckpointFile(const std::filesystem::path& path);
  CheckpointFile(const CheckpointFile&) = delete;
  CheckpointFile& operator=(const CheckpointFile&) = delete;

  const std::string& name() const { return name_; }
  int64_t size() const { return size_; }

  // Calls use(bytes), bytes being the std::span<const char> where `count` bytes of the file are
  // mapped, from `offset` on (within size()). Their values may be anything, and no two reads of one
  // need agree, if somebody writes to the file. Throws std::runtime_error if the file changed its
  // size or could not be read meanwhile: then what came of `use` is worth nothing.
  template <typename Use>
  void With(int64_t offset, int64_t count, Use use) const {
    use(Bytes(offset, count));
    RequireWhole();
    Unmap(offset, count);
  }
  // Fills `target` from byte `offset` on. Throws as With does.
  void Read(int64_t offset, std::span<char> target) const;
  // Has the disk begin with what will be read soon.
  void Expect(int64_t offset, int64_t count) const;

 private:
  struct Descriptor {
    ~Descriptor();
    int number;
  };

  std::span<const char> Bytes(int64_t offset, int64_t count) const;
  void RequireWhole() const;
  void Unmap(int64_t offset, int64_t count) const;
  void Advise(int64_t begin, int64_t end, int advice) const;

  std::string name_;
  Descriptor descriptor_;
  int64_t size_ = 0;
  std::optional<GuardedMap> map_;  // none of an empty file
};

}  // namespace fla
