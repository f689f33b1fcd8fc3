// What a clone without Git LFS leaves in place of a checkpoint's large files.
#pragma once

#include <string_view>

namespace fla {

// True for the beginning of a pointer to the real file.
inline bool IsGitLfsPointer(std::string_view begin) {
  return begin.starts_with("version https://git-lfs.github.com/");
}

// For an error: what there is, and the way out.
inline constexpr char kGitLfsPointer[] = "a pointer of Git LFS: `git lfs pull` brings the file";

}  // namespace fla
