#include "server/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace fla {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Kind = MemoryPlan::Kind;

constexpr int64_t kPlenty = int64_t{1} << 40;

Resident Pinned(int64_t bytes) { return {.bytes = bytes}; }
Resident Evictable(int64_t bytes, int64_t last_used) {
  return {.bytes = bytes, .evictable = true, .last_used = last_used};
}
Resident Leaving(int64_t bytes) { return {.bytes = bytes, .leaving = true}; }
Resident Replaced(int64_t bytes) { return {.bytes = bytes, .replaced = true}; }

TEST(MemoryPlan, LoadsWhatFits) {
  EXPECT_EQ(PlanMemory({}, {10, 10, 10}).kind, Kind::kLoad);
  EXPECT_EQ(PlanMemory({}, {11, 10, 20}).kind, Kind::kRefuse);
  EXPECT_EQ(PlanMemory({}, {11, 20, 10}).kind, Kind::kRefuse);
  EXPECT_EQ(PlanMemory({Pinned(90)}, {10, 100, kPlenty}).kind, Kind::kLoad);
  EXPECT_EQ(PlanMemory({Pinned(91)}, {10, 100, kPlenty}).kind, Kind::kRefuse);
}

TEST(MemoryPlan, UnloadsNobodyWhereItFits) {
  const MemoryPlan plan = PlanMemory({Evictable(50, 1)}, {50, 100, kPlenty});
  EXPECT_EQ(plan.kind, Kind::kLoad);
  EXPECT_THAT(plan.unload, IsEmpty());
}

TEST(MemoryPlan, UnloadsTheLeastRecentlyUsedFirst) {
  const std::vector<Resident> residents = {Evictable(30, 5), Evictable(30, 2), Pinned(10),
                                           Evictable(30, 9)};
  MemoryPlan plan = PlanMemory(residents, {30, 100, kPlenty});
  EXPECT_EQ(plan.kind, Kind::kWait);
  EXPECT_THAT(plan.unload, ElementsAre(1));
  plan = PlanMemory(residents, {31, 100, kPlenty});
  EXPECT_THAT(plan.unload, ElementsAre(1, 0));
  plan = PlanMemory(residents, {90, 100, kPlenty});
  EXPECT_THAT(plan.unload, ElementsAre(1, 0, 3));
}

TEST(MemoryPlan, UnloadsNobodyInVain) {
  const MemoryPlan plan = PlanMemory({Evictable(30, 1), Pinned(60)}, {50, 100, kPlenty});
  EXPECT_EQ(plan.kind, Kind::kRefuse);
  EXPECT_THAT(plan.unload, IsEmpty());
}

TEST(MemoryPlan, WaitsForThoseThatAreLeaving) {
  const MemoryPlan plan = PlanMemory({Leaving(60), Evictable(30, 1)}, {60, 100, kPlenty});
  EXPECT_EQ(plan.kind, Kind::kWait);
  EXPECT_THAT(plan.unload, IsEmpty());
}

TEST(MemoryPlan, TakesTheReplacedVersionLast) {
  MemoryPlan plan = PlanMemory({Replaced(40), Evictable(40, 9)}, {50, 100, kPlenty});
  EXPECT_EQ(plan.kind, Kind::kWait);
  EXPECT_THAT(plan.unload, ElementsAre(1));
  plan = PlanMemory({Replaced(40), Evictable(40, 9)}, {90, 100, kPlenty});
  EXPECT_THAT(plan.unload, ElementsAre(1, 0));
}

TEST(MemoryPlan, CountsWhatTheDeviceHasLeft) {
  const MemoryPlan plan = PlanMemory({Evictable(40, 1)}, {50, kPlenty, 20});
  EXPECT_EQ(plan.kind, Kind::kWait);
  EXPECT_THAT(plan.unload, ElementsAre(0));
  EXPECT_EQ(PlanMemory({Evictable(40, 1)}, {61, kPlenty, 20}).kind, Kind::kRefuse);
}

TEST(MemoryPlan, WhatItPromisesComesTrue) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 5000; ++trial) {
    std::vector<Resident> residents(random() % 6);
    int64_t taken = 0;
    for (Resident& resident : residents) {
      resident = {static_cast<int64_t>(random() % 50), random() % 4 == 0, random() % 2 == 0,
                  random() % 4 == 0, static_cast<int64_t>(random() % 9)};
      taken += resident.bytes;
    }
    const MemoryDemand demand = {static_cast<int64_t>(random() % 150),
                                 static_cast<int64_t>(random() % 200),
                                 static_cast<int64_t>(random() % 200)};
    const MemoryPlan plan = PlanMemory(residents, demand);
    int64_t returned = 0, most = 0;
    for (const Resident& resident : residents) {
      if (resident.leaving || resident.evictable || resident.replaced) most += resident.bytes;
      if (resident.leaving) returned += resident.bytes;
    }
    for (const int index : plan.unload) {
      EXPECT_TRUE(!residents[index].leaving &&
                  (residents[index].evictable || residents[index].replaced));
      returned += residents[index].bytes;
    }
    const int64_t now = std::min(demand.limit - taken, demand.free);
    EXPECT_EQ(plan.kind == Kind::kLoad, demand.needed <= now);
    EXPECT_EQ(plan.kind == Kind::kRefuse, demand.needed > now + most);
    if (plan.kind == Kind::kWait) {
      EXPECT_LE(demand.needed, now + returned);
    }
  }
}

}  // namespace
}  // namespace fla
