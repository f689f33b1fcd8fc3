// The queue and the scheduler together, as the engine runs them, under random traffic and a
// simulated clock.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "server/request_queue.h"
#include "server/scheduler.h"

namespace fla {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Clock::duration kAging = milliseconds(200);

// What a simulated request wants, and what it has got.
struct Client {
  Clock::time_point received;
  int priority = 0;
  int prompt = 0, to_generate = 0;
  bool scored = false;
  // Of the model: tokens fed and generated.
  int fed = 0, generated = 0;
  bool admitted = false, finished = false;
};

class Simulation {
 public:
  explicit Simulation(int seed) : random_(seed), queue_(1 << 20, int64_t{1} << 40) {
    slots_ = Draw(1, 24);
    limits_.max_tokens = Draw(2, 300);
    limits_.max_scored_rows = Draw(1, 64);
    limits_.alignment = Draw(0, 1) ? 64 : Draw(1, 32);
    // From a trickle to several times of what the server can do.
    mean_distance_ = microseconds(Draw(0, 2) ? Draw(100, 3000) : Draw(3000, 50000));
  }

  void Run() {
    for (int i = 0; i < 80; ++i) MakeClient();
    for (int step = 0; finished_ < static_cast<int>(clients_.size()); ++step) {
      ASSERT_LT(step, 200000) << "does not finish";
      Arrive();
      Admit();
      if (::testing::Test::HasFatalFailure()) return;
      if (running_.empty()) {
        now_ = clients_[arrived_].received;  // idle until the next comes
        continue;
      }
      Step();
      if (::testing::Test::HasFatalFailure()) return;
    }
    for (const Client& client : clients_) {
      EXPECT_EQ(client.fed, client.prompt + client.to_generate);
      EXPECT_EQ(client.generated, client.to_generate);
    }
  }

 private:
  struct Running {
    int client;
    uint64_t arrival;
    int64_t last_turn;
    int waited = 0;  // steps since it last was in a batch while it decoded
  };

  int Draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  void MakeClient() {
    Client client;
    const std::exponential_distribution<double>::param_type mean(1.0);
    const double distance = std::exponential_distribution<double>()(random_, mean);
    last_arrival_ += std::chrono::duration_cast<Clock::duration>(distance * mean_distance_);
    client.received = last_arrival_;
    client.priority = Draw(-2, 2);
    client.prompt = Draw(0, 3) == 0 ? Draw(1, 2000) : Draw(1, 40);
    client.to_generate = Draw(0, 30);
    client.scored = Draw(0, 4) == 0;
    clients_.push_back(client);
  }

  void Arrive() {
    while (arrived_ < static_cast<int>(clients_.size()) && clients_[arrived_].received <= now_) {
      const Client& client = clients_[arrived_];
      Request request;
      request.id = static_cast<uint64_t>(arrived_++);
      request.prompt.resize(client.prompt);
      request.due = DueTime(client.received, client.priority, kAging);
      ASSERT_EQ(queue_.Push({std::move(request)}), RequestQueue::PushResult::kQueued);
    }
  }

  void Admit() {
    while (static_cast<int>(running_.size()) < slots_) {
      const auto next = queue_.Pop(now_);
      if (!next) return;
      const int index = static_cast<int>(next->request.id);
      Client& client = clients_[index];
      ASSERT_FALSE(client.admitted) << "admitted twice";
      client.admitted = true;
      for (int i = 0; i < arrived_; ++i) {
        const Client& other = clients_[i];
        if (other.admitted) continue;
        // Those that wait on have no better right: by priority, by arrival, with aging.
        ASSERT_GE(other.received - client.received, (client.priority - other.priority) * kAging);
        if (other.priority == client.priority) {
          ASSERT_GT(i, index);
        }
      }
      running_.push_back({index, next->arrival, turn_});
    }
  }

  std::vector<RunningSequence> Views() const {
    std::vector<RunningSequence> views;
    for (const Running& running : running_) {
      const Client& client = clients_[running.client];
      views.push_back(
          {.due = DueTime(client.received, client.priority, kAging).time_since_epoch().count(),
           .arrival = running.arrival,
           .position = client.fed,
           .prompt_left = std::max(0, client.prompt - client.fed),
           .scored = client.scored,
           .last_turn = running.last_turn});
    }
    return views;
  }

  void Step() {
    const std::vector<RunningSequence> views = Views();
    const BatchPlan plan = ComposeBatch(views, limits_);
    int tokens = 0, scored_rows = 0;
    std::map<int, int> share;  // by index into running_
    for (size_t i = 0; i < plan.pieces.size(); ++i) {
      const auto [index, count] = plan.pieces[i];
      ASSERT_GE(index, 0);
      ASSERT_LT(index, static_cast<int>(running_.size()));
      ASSERT_TRUE(share.emplace(index, count).second) << "a slot is in the batch twice";
      ASSERT_GE(count, 1);
      const bool decodes = static_cast<int>(i) < plan.num_decode;
      ASSERT_EQ(decodes, views[index].prompt_left == 0);
      if (decodes) {
        ASSERT_EQ(count, 1);
      } else {
        ASSERT_LE(count, views[index].prompt_left);
        if (views[index].scored) scored_rows += count;
      }
      tokens += count;
    }
    ASSERT_LE(tokens, limits_.max_tokens);
    ASSERT_LE(scored_rows, limits_.max_scored_rows);
    CheckProgress(views, share);
    Apply(views, share);
    now_ += milliseconds(1) + tokens * microseconds(20);
  }

  // The prompt that is due first moves in every step.
  void CheckProgress(const std::vector<RunningSequence>& views, const std::map<int, int>& share) {
    int first = -1;
    for (int i = 0; i < static_cast<int>(views.size()); ++i) {
      if (views[i].prompt_left == 0) continue;
      if (first < 0 || std::tie(views[i].due, views[i].arrival) <
                           std::tie(views[first].due, views[first].arrival)) {
        first = i;
      }
    }
    if (first >= 0) {
      ASSERT_EQ(share.count(first), 1u);
    }
  }

  void Apply(const std::vector<RunningSequence>& views, const std::map<int, int>& share) {
    // A row that decodes waits no longer than it takes to go round.
    const int per_step = limits_.max_tokens - std::max(1, limits_.max_tokens / 8);
    const int round = (slots_ + per_step - 1) / per_step;
    std::vector<Running> left;
    for (int i = 0; i < static_cast<int>(running_.size()); ++i) {
      Running running = running_[i];
      Client& client = clients_[running.client];
      const auto found = share.find(i);
      if (found == share.end()) {
        if (views[i].prompt_left == 0) {
          ASSERT_LE(++running.waited, round);
        }
        left.push_back(running);
        continue;
      }
      running.waited = 0;
      running.last_turn = turn_++;
      client.fed += found->second;
      if (views[i].prompt_left == 0) ++client.generated;
      if (client.fed >= client.prompt && client.generated == client.to_generate) {
        ASSERT_FALSE(client.finished);
        client.finished = true;
        ++finished_;
      } else {
        left.push_back(running);
      }
    }
    running_ = std::move(left);
  }

  std::mt19937 random_;
  int slots_;
  BatchLimits limits_;
  Clock::duration mean_distance_;
  Clock::time_point now_ = Clock::time_point() + seconds(1000);
  Clock::time_point last_arrival_ = now_;
  std::vector<Client> clients_;
  int arrived_ = 0, finished_ = 0;
  RequestQueue queue_;
  std::vector<Running> running_;
  int64_t turn_ = 0;
};

TEST(SchedulerSimulationTest, KeepsItsPromisesInRandomTraffic) {
  for (int seed = 0; seed < 300 && !::testing::Test::HasFatalFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Simulation(seed).Run();
  }
}

// One slot, a second of work each, twice as many urgent requests as it can do.
TEST(SchedulerSimulationTest, AgingEndsTheWaitOfLowPriorities) {
  const Clock::time_point start = Clock::time_point() + seconds(1000);
  RequestQueue queue(1 << 20, 1 << 30);
  const auto push = [&](uint64_t id, Clock::time_point received, int priority) {
    Request request;
    request.id = id;
    request.due = DueTime(received, priority, seconds(10));
    ASSERT_EQ(queue.Push({std::move(request)}), RequestQueue::PushResult::kQueued);
  };
  push(0, start, 5);
  uint64_t id = 1;
  for (int second = 0; second < 1000; ++second) {
    const Clock::time_point now = start + seconds(second);
    push(id++, now, 0);
    push(id++, now + milliseconds(500), 0);
    if (queue.Pop(now)->request.id == 0) {
      // Due after 50 s, behind the 100 that came until then.
      EXPECT_EQ(second, 100);
      return;
    }
  }
  FAIL() << "starved";
}

}  // namespace
}  // namespace fla
