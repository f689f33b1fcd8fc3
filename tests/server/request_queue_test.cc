#include "server/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace fla {
namespace {

using ::testing::ElementsAre;
using PushResult = RequestQueue::PushResult;

Request MakeRequest(uint64_t id, int priority = 0) {
  Request request;
  request.id = id;
  request.priority = priority;
  return request;
}

std::vector<uint64_t> PopAll(RequestQueue& queue) {
  std::vector<uint64_t> ids;
  while (auto next = queue.Pop()) ids.push_back(next->request.id);
  return ids;
}

TEST(RequestQueueTest, PopsByPriorityThenArrival) {
  RequestQueue queue(8);
  ASSERT_EQ(queue.Push({MakeRequest(1, 5), MakeRequest(2, 5)}), PushResult::kQueued);
  ASSERT_EQ(queue.Push({MakeRequest(3, -1)}), PushResult::kQueued);
  ASSERT_EQ(queue.Push({MakeRequest(4, 5)}), PushResult::kQueued);
  ASSERT_EQ(queue.Push({MakeRequest(5, -1)}), PushResult::kQueued);
  EXPECT_EQ(queue.size(), 5);
  EXPECT_THAT(PopAll(queue), ElementsAre(3, 5, 1, 2, 4));
  EXPECT_EQ(queue.size(), 0);
}

TEST(RequestQueueTest, TakesAllChoicesOrNone) {
  RequestQueue queue(3);
  ASSERT_EQ(queue.Push({MakeRequest(1), MakeRequest(2)}), PushResult::kQueued);
  EXPECT_EQ(queue.Push({MakeRequest(3), MakeRequest(4)}), PushResult::kFull);
  EXPECT_EQ(queue.size(), 2);
  EXPECT_EQ(queue.Push({MakeRequest(5)}), PushResult::kQueued);
  EXPECT_THAT(PopAll(queue), ElementsAre(1, 2, 5));
}

TEST(RequestQueueTest, ArrivalsAscendAcrossPriorities) {
  RequestQueue queue(3);
  ASSERT_EQ(queue.Push({MakeRequest(1, 2), MakeRequest(2, 1), MakeRequest(3, 0)}),
            PushResult::kQueued);
  std::vector<uint64_t> arrivals;
  while (auto next = queue.Pop()) arrivals.push_back(next->arrival);
  EXPECT_THAT(arrivals, ElementsAre(2, 1, 0));
}

TEST(RequestQueueTest, TakeIfLeavesTheOthersInOrder) {
  RequestQueue queue(8);
  ASSERT_EQ(queue.Push({MakeRequest(1), MakeRequest(2), MakeRequest(3), MakeRequest(4)}),
            PushResult::kQueued);
  const auto taken = queue.TakeIf([](const Request& request) { return request.id % 2 == 0; });
  ASSERT_EQ(taken.size(), 2u);
  EXPECT_EQ(taken[0].request.id, 2u);
  EXPECT_EQ(taken[1].request.id, 4u);
  EXPECT_THAT(PopAll(queue), ElementsAre(1, 3));
}

TEST(RequestQueueTest, ClosedRefusesButKeeps) {
  RequestQueue queue(8);
  ASSERT_EQ(queue.Push({MakeRequest(1)}), PushResult::kQueued);
  queue.Close();
  EXPECT_EQ(queue.Push({MakeRequest(2)}), PushResult::kClosed);
  EXPECT_THAT(PopAll(queue), ElementsAre(1));
}

TEST(RequestQueueTest, WakeIsNotLostWhenItComesBeforeWait) {
  RequestQueue queue(1);
  queue.Wake();
  queue.Wait();
  EXPECT_EQ(queue.size(), 0);
}

TEST(RequestQueueTest, EveryRequestOfManyThreadsIsPoppedOnce) {
  constexpr int kThreads = 4, kEach = 500;
  RequestQueue queue(16);
  std::vector<std::thread> clients;
  std::atomic<int> refused = 0;
  for (int t = 0; t < kThreads; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        const uint64_t id = static_cast<uint64_t>(t * kEach + i);
        while (queue.Push({MakeRequest(id, i % 3)}) == PushResult::kFull) {
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
    while (auto next = queue.Pop()) {
      ++popped[next->request.id];
      --left;
    }
  }
  for (std::thread& client : clients) client.join();
  EXPECT_THAT(popped, ::testing::Each(1));
}

}  // namespace
}  // namespace fla
