#include "server/slot_count.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace fla {
namespace {

constexpr int64_t kGiga = 1'000'000'000;

TEST(SlotCountTest, GivesWhatIsWantedWhereItFits) {
  EXPECT_EQ(FitSlots({.wanted = 64,
                      .free_bytes = 10 * kGiga,
                      .reserved_bytes = kGiga,
                      .bytes_per_slot = kGiga / 100}),
            64);
}

TEST(SlotCountTest, GivesFewerWhereMemoryIsShort) {
  EXPECT_EQ(FitSlots({.wanted = 64,
                      .free_bytes = 10 * kGiga,
                      .reserved_bytes = kGiga,
                      .bytes_per_slot = kGiga}),
            9);
}

TEST(SlotCountTest, SaysHowMuchIsMissing) {
  EXPECT_THAT(
      [] {
        FitSlots({.wanted = 4,
                  .free_bytes = 1'500'000'000,
                  .reserved_bytes = kGiga,
                  .bytes_per_slot = 2 * kGiga});
      },
      ::testing::ThrowsMessage<std::runtime_error>(::testing::AllOf(
          ::testing::HasSubstr("wanted 3000 MB"), ::testing::HasSubstr("got 1500 MB"),
          ::testing::HasSubstr("1500 MB are missing"))));
  EXPECT_THROW(
      FitSlots({.wanted = 1, .free_bytes = 1, .reserved_bytes = kGiga, .bytes_per_slot = 1}),
      std::runtime_error);
}

}  // namespace
}  // namespace fla
