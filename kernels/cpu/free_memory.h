// What memory is left to this process.
#pragma once

#include <cstddef>
#include <filesystem>

namespace fla::cpu {

// Bytes that the system has available, or fewer where a control group that this process is in, as
// in a container, is bounded (memory.max; memory.limit_in_bytes of version 1). What the group holds
// of files counts as free, for the kernel gives it up first. `root` stands for "/".
size_t FreeMemory(const std::filesystem::path& root = "/");

}  // namespace fla::cpu
