#include "kernels/fp8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace fla {
namespace {

TEST(Fp8Test, KnowsTheValuesOfAllBytes) {
  EXPECT_EQ(E4M3ToFloat(0x00), 0.0f);
  EXPECT_TRUE(std::signbit(E4M3ToFloat(0x80)));
  EXPECT_EQ(E4M3ToFloat(0x01), 0x1p-9f);  // the smallest
  EXPECT_EQ(E4M3ToFloat(0x07), 0x7p-9f);  // the largest subnormal
  EXPECT_EQ(E4M3ToFloat(0x08), 0x1p-6f);  // the smallest normal
  EXPECT_EQ(E4M3ToFloat(0x38), 1.0f);
  EXPECT_EQ(E4M3ToFloat(0xb9), -1.125f);
  EXPECT_EQ(E4M3ToFloat(0x7e), 448.0f);  // the largest
  EXPECT_TRUE(std::isnan(E4M3ToFloat(0x7f)));
  EXPECT_TRUE(std::isnan(E4M3ToFloat(0xff)));
  for (int bits = 1; bits < 0x7f; ++bits) {
    EXPECT_LT(E4M3ToFloat(static_cast<uint8_t>(bits - 1)), E4M3ToFloat(static_cast<uint8_t>(bits)));
  }
}

// Every number between two neighbours becomes the nearer one, the middle the even one.
TEST(Fp8Test, RoundsToTheNearest) {
  for (int bits = 0; bits < 0x7e; ++bits) {
    const float low = E4M3ToFloat(static_cast<uint8_t>(bits));
    const float high = E4M3ToFloat(static_cast<uint8_t>(bits + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(ToE4M3(low), bits);
    EXPECT_EQ(ToE4M3(-low), bits | 0x80);
    EXPECT_EQ(ToE4M3(middle), bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(ToE4M3(-middle), (bits % 2 == 0 ? bits : bits + 1) | 0x80);
    EXPECT_EQ(ToE4M3(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(ToE4M3(std::nextafter(middle, 500.0f)), bits + 1);
  }
}

TEST(Fp8Test, Saturates) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float value : {448.0f, 449.0f, 480.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(ToE4M3(value), 0x7e) << value;
    EXPECT_EQ(ToE4M3(-value), 0xfe) << value;
  }
  EXPECT_TRUE(std::isnan(E4M3ToFloat(ToE4M3(std::numeric_limits<float>::quiet_NaN()))));
}

float ScaleOf(std::vector<float> row) { return Fp8Scale(row); }

TEST(Fp8Test, ScalesAreTheLeastPowersOfTwoThatFit) {
  EXPECT_EQ(ScaleOf({1, -448, 3}), 1.0f);
  EXPECT_EQ(ScaleOf({std::nextafter(448.0f, 449.0f)}), 2.0f);
  EXPECT_EQ(ScaleOf({224}), 0.5f);
  EXPECT_EQ(ScaleOf({-0.875f, 0.1f}), 0x1p-9f);
  EXPECT_EQ(ScaleOf({kMaxFp8Weight}), 128.0f);
  // All that is left of a row so small is zeros and a finite scale.
  for (const float least : {ScaleOf({0, -0.0f}), ScaleOf({1e-45f})}) {
    EXPECT_GT(least, 0.0f);
    EXPECT_TRUE(std::isfinite(1 / least));
  }
}

TEST(Fp8Test, RefusesWhatHasNoScale) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(),
                            -std::numeric_limits<float>::infinity(), -60000.0f, 1e30f}) {
    EXPECT_TRUE(std::isnan(ScaleOf({1, value, 2}))) << value;
  }
}

// Bytes and bf16 numbers are the same weights, whatever the size of a row's numbers.
TEST(Fp8Test, BytesAndRoundedNumbersAgree) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const float size : {0.0f, 1e-38f, 1e-30f, 1e-3f, 0.02f, 1.0f, 1e4f}) {
    std::vector<float> row(3 * kFp8Run);
    for (float& value : row) value = size * normal(random);
    const float scale = ScaleOf(row);
    ASSERT_TRUE(std::isfinite(scale)) << size;
    std::vector<uint8_t> packed(row.size());
    std::vector<BFloat16> rounded(row.size());
    PackFp8(row, scale, packed.data());
    RoundToFp8(row, scale, rounded.data());
    for (size_t i = 0; i < row.size(); ++i) {
      const auto value = static_cast<float>(rounded[i]);
      EXPECT_EQ(value, E4M3ToFloat(packed[i]) * scale);
      EXPECT_LE(std::abs(value - row[i]), std::max(std::abs(row[i]) / 16, scale * 0x1p-10f));
    }
  }
}

}  // namespace
}  // namespace fla
