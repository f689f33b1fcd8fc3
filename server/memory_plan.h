// Whether a model fits into a device's memory, and who has to go for it.
#pragma once

#include <cstdint>
#include <vector>

namespace fla {

// A model that takes memory on the device, or whose memory has not been returned yet.
struct Resident {
  int64_t bytes = 0;
  bool leaving = false;    // takes no new requests; its memory will be free
  bool evictable = false;  // may be unloaded for another
  bool replaced = false;   // the version that the new one replaces, where it may go before
  int64_t last_used = 0;   // larger: later
};

struct MemoryDemand {
  int64_t needed = 0;
  int64_t limit = 0;  // bytes that all residents together may take
  int64_t free = 0;   // bytes that the device has left
};

struct MemoryPlan {
  enum class Kind {
    kLoad,    // it fits now
    kWait,    // it will fit when those that are leaving and `unload` have gone
    kRefuse,  // it will not fit
  };
  Kind kind = Kind::kRefuse;
  std::vector<int> unload;  // indices of residents
};

// Unloads as few as needed: the least recently used first, the replaced version last. Pure.
MemoryPlan PlanMemory(const std::vector<Resident>& residents, const MemoryDemand& demand);

}  // namespace fla
