#include "model/checkpoint_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "kernels/check.h"

namespace fla {
namespace {

// A fault in a file maps what is cached of so many bytes around it; a multiple of every page size.
constexpr int64_t kFaultBytes = 64 << 10;

[[noreturn]] void Fail(const std::string& file, const std::string& what) {
  throw std::runtime_error(file + ": " + what);
}

}  // namespace

CheckpointFile::Descriptor::~Descriptor() {
  if (number >= 0) close(number);
}

CheckpointFile::CheckpointFile(const std::filesystem::path& path)
    : name_(path.string()),
      // Not to wait for the other end of a pipe that somebody put there.
      descriptor_{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)} {
  if (descriptor_.number < 0) Fail(name_, std::string("cannot open: ") + std::strerror(errno));
  struct stat status {};
  if (fstat(descriptor_.number, &status) != 0 || !S_ISREG(status.st_mode)) {
    Fail(name_, "wanted a regular file");
  }
  size_ = status.st_size;
  if (size_ == 0) return;
  try {
    map_.emplace(descriptor_.number, static_cast<size_t>(size_));
  } catch (const std::system_error& error) {
    Fail(name_, "cannot be mapped: " + error.code().message());
  }
  Advise(0, size_, MADV_SEQUENTIAL);
}

void CheckpointFile::Read(int64_t offset, std::span<char> target) const {
  With(offset, static_cast<int64_t>(target.size()), [&](std::span<const char> bytes) {
    if (!bytes.empty()) std::memcpy(target.data(), bytes.data(), bytes.size());
  });
}

void CheckpointFile::Expect(int64_t offset, int64_t count) const {
  Advise(offset, offset + count, MADV_WILLNEED);
}

std::span<const char> CheckpointFile::Bytes(int64_t offset, int64_t count) const {
  FLA_CHECK(offset >= 0 && count >= 0 && offset <= size_ && count <= size_ - offset);
  if (count == 0) return {};
  return {map_->data() + offset, static_cast<size_t>(count)};
}

void CheckpointFile::RequireWhole() const {
  struct stat status {};
  if (fstat(descriptor_.number, &status) != 0) {
    Fail(name_, std::string("cannot be read: ") + std::strerror(errno));
  }
  if (status.st_size != size_) {
    Fail(name_, "wanted " + std::to_string(size_) + " bytes, got " +
                    std::to_string(status.st_size) + ": changed its size while it was read");
  }
  if (map_.has_value() && map_->broken()) {
    Fail(name_,
         "cannot be read: a page of it could not be had (cut short, or a fault of the disk)");
  }
}

// What faults at its borders have mapped around it included.
void CheckpointFile::Unmap(int64_t offset, int64_t count) const {
  Advise(offset - kFaultBytes, offset + count + kFaultBytes, MADV_DONTNEED);
}

// Advice may be unknown to the kernel or come to nothing: what is read is the same.
void CheckpointFile::Advise(int64_t begin, int64_t end, int advice) const {
  begin = std::max<int64_t>(begin, 0) / kFaultBytes * kFaultBytes;
  end = std::min(end, size_);
  if (begin >= end) return;
  madvise(const_cast<char*>(map_->data()) + begin, static_cast<size_t>(end - begin), advice);
}

}  // namespace fla
