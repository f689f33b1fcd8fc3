#include "kernels/cpu/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/ops.h"
#include "tests/kernels/device_matrix.h"

namespace fla::cpu {
namespace {

class ParallelTest : public ::testing::Test {
 protected:
  ~ParallelTest() override { SetMaxThreads(threads_); }

 private:
  const int threads_ = MaxThreads();
};

TEST_F(ParallelTest, CallsEveryIterationOnce) {
  for (const int threads : {1, 2, 3, 16}) {
    SetMaxThreads(threads);
    for (const int64_t count : {0, 1, 2, 7, 100, 1000}) {
      std::vector<std::atomic<int>> calls(count);
      ParallelFor(count, threads, [&](int64_t i) { ++calls[i]; });
      for (const auto& call : calls) ASSERT_EQ(call.load(), 1);
    }
  }
}

TEST_F(ParallelTest, NoTwoCallsAtATimeHaveTheSameThread) {
  SetMaxThreads(8);
  for (int repeat = 0; repeat < 200; ++repeat) {
    std::vector<std::atomic<int>> inside(8);
    std::atomic<bool> clash = false;
    ParallelFor(64, 5, [&](int64_t, int thread) {
      if (thread >= 5 || inside[thread].fetch_add(1) != 0) clash = true;
      std::this_thread::yield();
      inside[thread].fetch_sub(1);
    });
    ASSERT_FALSE(clash);
  }
}

TEST_F(ParallelTest, UsesOtherThreads) {
  SetMaxThreads(2);
  // The first iteration returns when the other one has begun, which takes a second thread.
  std::atomic<int> begun = 0;
  ParallelFor(2, 2, [&](int64_t) {
    ++begun;
    while (begun < 2) std::this_thread::yield();
  });
  EXPECT_EQ(begun, 2);
}

// Each loop sees what the caller wrote before it, and the caller what the loop wrote.
TEST_F(ParallelTest, ManyShortLoopsInARow) {
  SetMaxThreads(4);
  std::vector<int64_t> before(64, 0), after(64, 0);
  constexpr int kLoops = 5000;
  for (int loop = 0; loop < kLoops; ++loop) {
    ParallelFor(64, 4, [&](int64_t i) { after[i] = before[(i + 1) % 64] + 1; });
    before.swap(after);
  }
  for (const int64_t value : before) EXPECT_EQ(value, kLoops);
}

TEST_F(ParallelTest, LoopsInsideLoopsAndBesideThem) {
  SetMaxThreads(4);
  std::atomic<int64_t> sum = 0;
  const auto nested = [&] {
    for (int repeat = 0; repeat < 50; ++repeat) {
      ParallelFor(10, 4,
                  [&](int64_t i) { ParallelFor(10, 4, [&](int64_t j) { sum += 10 * i + j; }); });
    }
  };
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) callers.emplace_back(nested);
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 3 * 50 * 4950);
}

TEST_F(ParallelTest, ResultsDoNotDependOnTheNumberOfThreads) {
  constexpr int kRows = 150, kIn = 384, kOut = 333;
  Stream stream{Device{}};
  const testing::DeviceMatrix x(stream, DType::kF32, kRows, kIn,
                                testing::RandomNormal(kRows * kIn, 1, DType::kF32));
  const testing::DeviceMatrix weight(stream, DType::kF32, kOut, kIn,
                                     testing::RandomNormal(kOut * kIn, 2, DType::kF32));
  std::vector<float> wanted;
  for (const int threads : {1, 2, 5, 16}) {
    SetMaxThreads(threads);
    const testing::DeviceMatrix out(stream, DType::kF32, kRows, kOut);
    Linear(stream, x.view(), weight.view(), nullptr, out.view());
    if (threads == 1) wanted = out.Read();
    EXPECT_EQ(out.Read(), wanted);
  }
}

}  // namespace
}  // namespace fla::cpu
