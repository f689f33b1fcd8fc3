#include "server/memory_plan.h"

#include <algorithm>

namespace fla {

MemoryPlan PlanMemory(const std::vector<Resident>& residents, const MemoryDemand& demand) {
  int64_t taken = 0, leaving = 0;
  std::vector<int> candidates;
  for (size_t i = 0; i < residents.size(); ++i) {
    taken += residents[i].bytes;
    if (residents[i].leaving) {
      leaving += residents[i].bytes;
    } else if (residents[i].evictable || residents[i].replaced) {
      candidates.push_back(static_cast<int>(i));
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(), [&](int a, int b) {
    if (residents[a].replaced != residents[b].replaced) return residents[b].replaced;
    return residents[a].last_used < residents[b].last_used;
  });

  int64_t available = std::min(demand.limit - taken, demand.free);
  MemoryPlan plan;
  if (demand.needed <= available) {
    plan.kind = MemoryPlan::Kind::kLoad;
    return plan;
  }
  available += leaving;
  for (const int candidate : candidates) {
    if (demand.needed <= available) break;
    available += residents[candidate].bytes;
    plan.unload.push_back(candidate);
  }
  if (demand.needed <= available) {
    plan.kind = MemoryPlan::Kind::kWait;
  } else {
    plan.unload.clear();
  }
  return plan;
}

}  // namespace fla
