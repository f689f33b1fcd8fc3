#include "kernels/cpu/free_memory.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace fla::cpu {
namespace {

namespace fs = std::filesystem;

// A file that holds a number; none where it holds "max" or is not there.
std::optional<uint64_t> NumberIn(const fs::path& file) {
  std::ifstream stream(file);
  uint64_t number = 0;
  return stream >> number ? std::optional(number) : std::nullopt;
}

// The value of "key VALUE" or "key: VALUE" in a file of such lines.
std::optional<uint64_t> ValueIn(const fs::path& file, std::string_view key) {
  std::ifstream stream(file);
  std::string name, rest;
  uint64_t value = 0;
  while (stream >> name >> value) {
    if (name == key) return value;
    std::getline(stream, rest);
  }
  return std::nullopt;
}

// The names that the versions of control groups have for the same.
struct GroupFiles {
  const char* limit;
  const char* usage;
  const char* inactive_file;  // of memory.stat
  const char* active_file;
};
constexpr GroupFiles kVersion1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                  "total_inactive_file", "total_active_file"};
constexpr GroupFiles kVersion2 = {"memory.max", "memory.current", "inactive_file", "active_file"};

uint64_t FreeInGroup(const fs::path& group, const GroupFiles& files) {
  const std::optional<uint64_t> limit = NumberIn(group / files.limit);
  const std::optional<uint64_t> usage = NumberIn(group / files.usage);
  if (!limit || !usage) return std::numeric_limits<uint64_t>::max();
  const fs::path stat = group / "memory.stat";
  const uint64_t of_files =
      ValueIn(stat, files.inactive_file).value_or(0) + ValueIn(stat, files.active_file).value_or(0);
  const uint64_t taken = *usage - std::min(*usage, of_files);
  return *limit - std::min(*limit, taken);
}

}  // namespace

size_t FreeMemory(const fs::path& root) {
  uint64_t free = ValueIn(root / "proc/meminfo", "MemAvailable:").value_or(0) * 1024;  // of kB
  // A line a hierarchy, "NUMBER:CONTROLLERS:/PATH"; version 2 has the number 0 and no controllers.
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool version2 = controllers.empty();
    if (!version2 && controllers.find("memory") == std::string::npos) continue;
    const fs::path top = root / (version2 ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    // Every group on the way up bounds it. In a container the path may be the host's, of which only
    // the top is there.
    fs::path below = fs::path(line.substr(second + 1)).relative_path();
    while (true) {
      free = std::min(free, FreeInGroup(top / below, version2 ? kVersion2 : kVersion1));
      if (below.empty()) break;
      below = below.parent_path();
    }
  }
  return free;
}

}  // namespace fla::cpu
