// Where a test of an op runs: a device, and on the CPU every instruction set that the machine has.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hwy/targets.h"
#include "kernels/device.h"
#include "tests/testing/devices.h"

namespace fla::testing {

inline std::vector<int64_t> InstructionSets() {
  std::vector<int64_t> targets;
  for (int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1) {
    targets.push_back(left & -left);
  }
  return targets;
}

// The devices, then "cpu_AVX2" and so on.
inline std::vector<std::string> Places() {
  std::vector<std::string> names = Devices();
  for (const int64_t target : InstructionSets()) {
    names.push_back("cpu_" + std::string(hwy::TargetName(target)));
  }
  return names;
}

// While it lives, the CPU's kernels use the place's instruction set (for "cpu": the best).
class Place {
 public:
  explicit Place(const std::string& name) : device_(ParseDevice(name.substr(0, name.find('_')))) {
    for (const int64_t target : InstructionSets()) {
      if (name == "cpu_" + std::string(hwy::TargetName(target))) Choose(target);
    }
  }
  ~Place() { Choose(0); }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;

  Device device() const { return device_; }

 private:
  static void Choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }

  Device device_;
};

}  // namespace fla::testing
