#include "kernels/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "tests/testing/devices.h"

namespace fla {
namespace {

using ::testing::HasSubstr;
using ::testing::Test;

std::string WhyNot(std::string_view name) {
  try {
    ParseDevice(name);
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

TEST(ParseDeviceTest, KnowsTheNames) {
  EXPECT_EQ(ParseDevice("cpu"), Device{});
  EXPECT_EQ(NameOf(ParseDevice("cpu")), "cpu");
  const Device automatic = ParseDevice("auto");
  EXPECT_EQ(ParseDevice(NameOf(automatic)), automatic);
}

TEST(ParseDeviceTest, SaysWhatWasWanted) {
  for (const char* name :
       {"", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "CUDA", "cuda:99999999999"}) {
    EXPECT_THAT(WhyNot(name), HasSubstr("wanted cpu, cuda, cuda:N or auto")) << name;
    EXPECT_THAT(WhyNot(name), HasSubstr("\"" + std::string(name) + "\""));
  }
}

TEST(ParseDeviceTest, RefusesAGpuThatIsNotThere) {
  EXPECT_THAT(WhyNot("cuda:4096"),
              ::testing::AnyOf(HasSubstr("no CUDA backend"), HasSubstr("usable CUDA GPU")));
}

class DeviceTest : public ::testing::TestWithParam<std::string> {
 protected:
  Device device() const { return ParseDevice(GetParam()); }
};

TEST_P(DeviceTest, BuffersAreAlignedAndMove) {
  Buffer first(device(), 100);
  void* const data = first.data();
  ASSERT_NE(data, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 256, 0u);
  EXPECT_EQ(first.size(), 100u);
  Buffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(first.data(), nullptr);
  EXPECT_EQ(first.size(), 0u);
  Buffer third(device(), 1);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.device(), device());
  EXPECT_EQ(Buffer(device(), 0).data(), nullptr);
}

TEST_P(DeviceTest, RefusesMoreMemoryThanThereIs) {
  try {
    Buffer buffer(device(), std::numeric_limits<size_t>::max() / 2);
    FAIL() << "allocated half of the address space";
  } catch (const DeviceError& error) {
    EXPECT_THAT(error.what(), HasSubstr("9223372036854775807"));
  }
}

TEST_P(DeviceTest, CopiesBothWaysAndZeroes) {
  Stream stream(device());
  std::vector<int> source(1000), target(1000, -1);
  std::iota(source.begin(), source.end(), 0);
  Buffer buffer(device(), source.size() * sizeof(int));
  stream.CopyToDevice(buffer.data(), source.data(), buffer.size());
  stream.Zero(buffer.as<int>() + 10, 20 * sizeof(int));
  stream.CopyToHost(target.data(), buffer.data(), buffer.size());
  stream.Synchronize();
  std::fill(source.begin() + 10, source.begin() + 30, 0);
  EXPECT_EQ(target, source);
}

TEST_P(DeviceTest, FenceWaitsForCopiesToAndFromHostBuffers) {
  Stream stream(device());
  constexpr size_t kCount = size_t{1} << 22;
  HostBuffer source(device(), kCount * sizeof(int)), target(device(), kCount * sizeof(int));
  auto* const values = reinterpret_cast<int*>(source.data());
  std::iota(values, values + kCount, 7);
  std::memset(target.data(), 0, target.size());
  Buffer buffer(device(), source.size());
  Fence fence(device());
  fence.Wait();  // nothing was recorded
  EXPECT_TRUE(fence.IsPassed());
  stream.CopyToDevice(buffer.data(), source.data(), source.size());
  stream.CopyToHost(target.data(), buffer.data(), target.size());
  fence.Record(stream);
  fence.Wait();
  EXPECT_TRUE(fence.IsPassed());
  EXPECT_EQ(std::memcmp(source.data(), target.data(), source.size()), 0);
}

TEST_P(DeviceTest, RecordingReplaysWhatItsOpsReadThen) {
  if (!Recording::Supported(device())) GTEST_SKIP() << "a CPU records nothing";
  Stream stream(device());
  const std::vector<int> rows = {1, 0};
  std::vector<float> x = {1, 2, 3, 4}, out(4, -1);
  Buffer rows_buffer(device(), sizeof(int) * 2), x_buffer(device(), sizeof(float) * 4),
      out_buffer(device(), sizeof(float) * 4);
  const auto matrix = [](const Buffer& buffer) {
    return Matrix{buffer.data(), DType::kF32, 2, 2, 2};
  };
  stream.CopyToDevice(rows_buffer.data(), rows.data(), rows_buffer.size());
  const Recording recording(stream, [&] {
    GatherRows(stream, matrix(x_buffer), rows_buffer.as<int>(), matrix(out_buffer));
  });
  for (int replay = 0; replay < 2; ++replay) {
    stream.CopyToDevice(x_buffer.data(), x.data(), x_buffer.size());
    recording.Replay(stream);
    stream.CopyToHost(out.data(), out_buffer.data(), out_buffer.size());
    stream.Synchronize();
    EXPECT_EQ(out, (std::vector<float>{x[2], x[3], x[0], x[1]}));
    x = {5, 6, 7, 8};
  }
}

TEST_P(DeviceTest, ScratchGrowsAndStays) {
  Stream stream(device());
  void* const large = stream.Scratch(1 << 20);
  ASSERT_NE(large, nullptr);
  EXPECT_EQ(stream.Scratch(1000), large);
  EXPECT_NE(stream.Scratch(1 << 22), nullptr);
}

TEST_P(DeviceTest, KnowsItsFreeMemory) { EXPECT_GT(FreeMemory(device()), size_t{1} << 20); }

INSTANTIATE_TEST_SUITE_P(Devices, DeviceTest, ::testing::ValuesIn(testing::Devices()),
                         [](const auto& info) { return info.param; });

// The value of a half from its fields.
double HalfByDefinition(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(TensorTest, HalfToFloatIsExactForAllHalves) {
  for (int bits = 0; bits < 65536; ++bits) {
    const double wanted = HalfByDefinition(static_cast<uint16_t>(bits));
    const float actual = HalfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(wanted)) {
      ASSERT_TRUE(std::isnan(actual)) << bits;
    } else {
      ASSERT_EQ(actual, wanted) << bits;
      ASSERT_EQ(std::signbit(actual), std::signbit(wanted)) << bits;
    }
  }
}

TEST(TensorTest, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(BFloat16(1.0f).bits, 0x3f80);
  EXPECT_EQ(BFloat16(1.0f + 0x1p-8f).bits, 0x3f80);             // a tie, down to even
  EXPECT_EQ(BFloat16(1.0f + 0x1p-7f + 0x1p-8f).bits, 0x3f82);   // a tie, up to even
  EXPECT_EQ(BFloat16(1.0f + 0x1p-8f + 0x1p-20f).bits, 0x3f81);  // above a tie
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_TRUE(std::isnan(static_cast<float>(BFloat16(NAN))));
}

}  // namespace
}  // namespace fla
