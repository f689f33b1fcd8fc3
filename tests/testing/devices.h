// The devices that a test runs on: the CPU, and a GPU where this build and machine have one.
#pragma once

#include <string>
#include <vector>

#include "kernels/device.h"

namespace fla::testing {

inline std::vector<std::string> Devices() {
  std::vector<std::string> names = {"cpu"};
  if (ParseDevice("auto").is_cuda()) names.push_back("cuda");
  return names;
}

}  // namespace fla::testing
