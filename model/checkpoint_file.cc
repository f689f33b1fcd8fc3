#include "model/checkpoint_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace fla {
namespace {

[[noreturn]] void Fail(const std::string& file, const std::string& what) {
  throw std::runtime_error(file + ": " + what);
}

}  // namespace

CheckpointFile::CheckpointFile(const std::filesystem::path& path)
    : name_(path.string()),
      // Not to wait for the other end of a pipe that somebody put there.
      descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (descriptor_ < 0) Fail(name_, std::string("cannot open: ") + std::strerror(errno));
  struct stat status {};
  if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor_);
    Fail(name_, "wanted a regular file");
  }
  size_ = status.st_size;
}

CheckpointFile::~CheckpointFile() { close(descriptor_); }

void CheckpointFile::Read(int64_t offset, std::span<char> target) const {
  size_t done = 0;
  while (done < target.size()) {
    const ssize_t count = pread(descriptor_, target.data() + done, target.size() - done,
                                offset + static_cast<int64_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) Fail(name_, std::string("cannot read: ") + std::strerror(errno));
    if (count == 0) {
      Fail(name_, "wanted " + std::to_string(target.size()) + " bytes at byte " +
                      std::to_string(offset) + ", got " + std::to_string(done) +
                      " (cut short while it was read?)");
    }
    done += static_cast<size_t>(count);
  }
}

}  // namespace fla
