#include "server/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace fla {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using PushResult = RequestQueue::PushResult;

constexpr int64_t kManyTokens = 1 << 20;
const Clock::time_point kStart = Clock::time_point() + seconds(1000);

Request MakeRequest(uint64_t id, int priority = 0, size_t tokens = 1) {
  Request request;
  request.id = id;
  request.prompt.resize(tokens);
  request.due = DueTime(kStart, priority, seconds(1));
  return request;
}

std::vector<uint64_t> PopAll(RequestQueue& queue) {
  std::vector<uint64_t> ids;
  while (auto next = queue.Pop(kStart)) ids.push_back(next->request.id);
  return ids;
}

TEST(RequestQueueTest, DueTimesDoNotOverflow) {
  const Clock::time_point now = Clock::now();
  const Clock::duration day = std::chrono::hours(24);  // the most that the config takes of both
  EXPECT_GT(DueTime(now, 10000, day), DueTime(now, 9999, day));
  EXPECT_LT(DueTime(now, -10000, day), DueTime(now, -9999, day));
}

TEST(RequestQueueTest, PopsByDueTimeThenArrival) {
  RequestQueue queue(8, kManyTokens);
  ASSERT_EQ(queue.Push({MakeRequest(1, 5), MakeRequest(2, 5)}), PushResult::kQueued);
  ASSERT_EQ(queue.Push({MakeRequest(3, -1)}), PushResult::kQueued);
  ASSERT_EQ(queue.Push({MakeRequest(4, 5)}), PushResult::kQueued);
  ASSERT_EQ(queue.Push({MakeRequest(5, -1)}), PushResult::kQueued);
  EXPECT_EQ(queue.size(), 5);
  EXPECT_THAT(PopAll(queue), ElementsAre(3, 5, 1, 2, 4));
  EXPECT_EQ(queue.size(), 0);
}

TEST(RequestQueueTest, TakesAllChoicesOrNone) {
  RequestQueue queue(3, kManyTokens);
  ASSERT_EQ(queue.Push({MakeRequest(1), MakeRequest(2)}), PushResult::kQueued);
  EXPECT_EQ(queue.Push({MakeRequest(3), MakeRequest(4)}), PushResult::kTooManyRequests);
  EXPECT_EQ(queue.size(), 2);
  EXPECT_EQ(queue.Push({MakeRequest(5)}), PushResult::kQueued);
  EXPECT_THAT(PopAll(queue), ElementsAre(1, 2, 5));
}

TEST(RequestQueueTest, BoundsTheTokensThatWait) {
  RequestQueue queue(8, 100);
  // A prompt that is too long for the bound still gets its turn, alone.
  ASSERT_EQ(queue.Push({MakeRequest(1, 0, 500)}), PushResult::kQueued);
  EXPECT_EQ(queue.tokens(), 500);
  EXPECT_EQ(queue.Push({MakeRequest(2)}), PushResult::kTooManyTokens);
  ASSERT_TRUE(queue.Pop(kStart));
  EXPECT_EQ(queue.tokens(), 0);
  ASSERT_EQ(queue.Push({MakeRequest(3, 0, 40), MakeRequest(4, 0, 40)}), PushResult::kQueued);
  EXPECT_EQ(queue.Push({MakeRequest(5, 0, 21)}), PushResult::kTooManyTokens);
  ASSERT_EQ(queue.Push({MakeRequest(6, 0, 20)}), PushResult::kQueued);
  EXPECT_EQ(queue.tokens(), 100);
  EXPECT_EQ(queue.TakeIf([](const Request& request) { return request.id == 4; }).size(), 1u);
  EXPECT_EQ(queue.tokens(), 60);
}

TEST(RequestQueueTest, SaysWhenToRetryByThePaceOfPops) {
  RequestQueue queue(100, kManyTokens);
  EXPECT_EQ(queue.RetryAfter(1), seconds(1));  // nothing is known yet
  for (uint64_t id = 0; id < 100; ++id) {
    ASSERT_EQ(queue.Push({MakeRequest(id)}), PushResult::kQueued);
  }
  Clock::time_point now = kStart;
  for (int i = 0; i < 60; ++i) {
    ASSERT_TRUE(queue.Pop(now));
    now += milliseconds(200);
  }
  EXPECT_EQ(queue.RetryAfter(1), milliseconds(20 * 200));  // half of the 40 that wait
  EXPECT_EQ(queue.RetryAfter(30), milliseconds(30 * 200));
  EXPECT_EQ(queue.RetryAfter(10000), seconds(60));
  while (queue.Pop(now)) {
  }
  EXPECT_EQ(queue.RetryAfter(1), milliseconds(100));
  // While nothing waits, time does not count as slowness.
  const auto before = queue.RetryAfter(100);
  ASSERT_EQ(queue.Push({MakeRequest(1)}), PushResult::kQueued);
  ASSERT_TRUE(queue.Pop(now + seconds(3600)));
  EXPECT_EQ(queue.RetryAfter(100), before);
}

TEST(RequestQueueTest, ArrivalsAscendAcrossPriorities) {
  RequestQueue queue(3, kManyTokens);
  ASSERT_EQ(queue.Push({MakeRequest(1, 2), MakeRequest(2, 1), MakeRequest(3, 0)}),
            PushResult::kQueued);
  std::vector<uint64_t> arrivals;
  while (auto next = queue.Pop(kStart)) arrivals.push_back(next->arrival);
  EXPECT_THAT(arrivals, ElementsAre(2, 1, 0));
}

TEST(RequestQueueTest, TakeIfLeavesTheOthersInOrder) {
  RequestQueue queue(8, kManyTokens);
  ASSERT_EQ(queue.Push({MakeRequest(1), MakeRequest(2), MakeRequest(3), MakeRequest(4)}),
            PushResult::kQueued);
  const auto taken = queue.TakeIf([](const Request& request) { return request.id % 2 == 0; });
  ASSERT_EQ(taken.size(), 2u);
  EXPECT_EQ(taken[0].request.id, 2u);
  EXPECT_EQ(taken[1].request.id, 4u);
  EXPECT_THAT(PopAll(queue), ElementsAre(1, 3));
}

TEST(RequestQueueTest, ClosedRefusesButKeeps) {
  RequestQueue queue(8, kManyTokens);
  ASSERT_EQ(queue.Push({MakeRequest(1)}), PushResult::kQueued);
  queue.Close();
  EXPECT_EQ(queue.Push({MakeRequest(2)}), PushResult::kClosed);
  EXPECT_THAT(PopAll(queue), ElementsAre(1));
}

TEST(RequestQueueTest, WakeIsNotLostWhenItComesBeforeWait) {
  RequestQueue queue(1, kManyTokens);
  for (const Clock::duration awake : {Clock::duration::zero(), Clock::duration::max() / 4}) {
    queue.Wake();
    queue.Wait(awake);
  }
  EXPECT_EQ(queue.size(), 0);
}

TEST(RequestQueueTest, EveryRequestOfManyThreadsIsPoppedOnce) {
  constexpr int kThreads = 4, kEach = 500;
  RequestQueue queue(16, kManyTokens);
  std::vector<std::thread> clients;
  std::atomic<int> refused = 0;
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        const uint64_t id = static_cast<uint64_t>(t * kEach + i);
        while (queue.Push({MakeRequest(id, i % 3)}) == PushResult::kTooManyRequests) {
          ++refused;
          std::this_thread::yield();
        }
      }
    });
  }
  std::vector<int> popped(kThreads * kEach, 0);
  for (int left = kThreads * kEach; left > 0;) {
    queue.Wait();
    EXPECT_LE(queue.size(), 16);
    while (auto next = queue.Pop(kStart)) {
      ++popped[next->request.id];
      --left;
    }
  }
  for (std::thread& client : clients) client.join();
  EXPECT_THAT(popped, ::testing::Each(1));
}

TEST(RequestQueueTest, WaitsUntilItIsToldOrSomethingComes) {
  constexpr Clock::duration kLong = seconds(3600);
  RequestQueue queue(8, kManyTokens);
  int asked = 0;
  EXPECT_TRUE(queue.WaitUntil([&] { return ++asked == 3; }, kLong));
  EXPECT_TRUE(queue.WaitUntil([] { return false; }, milliseconds(1)));
  queue.Wake();
  EXPECT_FALSE(queue.WaitUntil([] { return false; }, kLong));
  std::thread other([&] { queue.Push({MakeRequest(1)}); });
  EXPECT_FALSE(queue.WaitUntil([] { return false; }, kLong));
  other.join();
}

}  // namespace
}  // namespace fla
