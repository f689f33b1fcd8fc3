// A device's clock.
#pragma once

#include <cstdint>

namespace fla {

// A reading, in nanoseconds: of a GPU's global timer, of a CPU's steady clock. Only differences
// between readings of one device mean something.
using DeviceTime = uint64_t;

}  // namespace fla
