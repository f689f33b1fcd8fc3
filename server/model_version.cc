#include "server/model_version.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "kernels/device.h"

namespace fla {
namespace {

// FNV-1a, of 64 bits.
class Hash {
 public:
  void Add(std::string_view bytes) {
    for (const char byte : bytes) Step(static_cast<uint8_t>(byte));
    Step(0xff);  // no UTF-8 text holds it: ends the string
  }
  void Add(int64_t number) {
    for (int i = 0; i < 8; ++i) Step(static_cast<uint8_t>(number >> 8 * i));
  }
  std::string Text() const {
    char text[17];
    std::snprintf(text, sizeof text, "%016" PRIx64, state_);
    return std::string(text, 12);
  }

 private:
  void Step(uint8_t byte) { state_ = (state_ ^ byte) * 1099511628211u; }
  uint64_t state_ = 14695981039346656037u;
};

// The files that a model may be made of; a README that changes is no new version.
bool IsPartOfModel(const std::filesystem::path& file) {
  const std::string extension = file.extension().string();
  return extension == ".json" || extension == ".safetensors" || extension == ".model" ||
         extension == ".txt" || extension == ".jinja";
}

}  // namespace

std::string ModelVersion(const ModelOptions& options) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  for (std::filesystem::directory_iterator entry(options.path, error), end; !error && entry != end;
       entry.increment(error)) {
    if (IsPartOfModel(entry->path())) files.push_back(entry->path());
  }
  if (error) {
    throw std::runtime_error(options.path.string() +
                             ": wanted a folder that can be read, got: " + error.message());
  }
  std::sort(files.begin(), files.end());
  Hash hash;
  for (const std::filesystem::path& file : files) {
    struct stat status {};
    if (stat(file.c_str(), &status) != 0) {
      throw std::runtime_error(file.string() + ": cannot be looked at: " + std::strerror(errno));
    }
    hash.Add(file.filename().string());
    hash.Add(static_cast<int64_t>(status.st_size));
    hash.Add(static_cast<int64_t>(status.st_ino));
    hash.Add(static_cast<int64_t>(status.st_mtim.tv_sec));
    hash.Add(static_cast<int64_t>(status.st_mtim.tv_nsec));
  }
  hash.Add(NameOf(ParseDevice(options.device)));
  hash.Add(NameOf(options.dtype));
  hash.Add(NameOf(options.weight_dtype.value_or(options.dtype)));
  hash.Add(NameOf(options.state_dtype));
  hash.Add(static_cast<int64_t>(options.state_replay));
  return hash.Text();
}

std::string LoadKey(const ModelOptions& options, const std::string& version) {
  return version + " " + std::to_string(options.slots) + " " +
         std::to_string(options.max_batch_tokens) + " " +
         std::to_string(options.max_prefill_tokens) + " " + options.path.string();
}

}  // namespace fla
