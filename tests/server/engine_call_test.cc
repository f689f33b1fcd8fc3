// The part of a call that is ours: from a message through the engine's and the writer's threads to
// an outcome, with gRPC's part played by the test.
#include "server/engine_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/grpc_status.h"
#include "server/retry_after.h"

namespace fla {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

// Takes events out at once, or, when stalled, never: as a client that does not read.
class RecordingCall final : public EngineCall {
 public:
  RecordingCall(const CallContext& context, bool stalled)
      : EngineCall(context, Totals::kChoices), stalled_(stalled) {}

  grpc::Status Wait() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return has_status_; });
    return status_;
  }
  std::vector<int> tokens() const { return tokens_; }  // once Wait has returned
  using EngineCall::Cancel;

 private:
  void Advance() override {
    absl::Status status;
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || (stalled_ && failure_.ok())) return;
      while (!buffer_.empty()) {
        for (const int token : buffer_.Take().tokens) tokens_.push_back(token);
      }
      if (failure_.ok() && !complete()) return;
      closed_ = true;
      status = failure_;
      LogOutcome(status);
    }
    FinishWith(ToGrpcStatus(status));
  }
  void FinishWith(const grpc::Status& status) override {
    const std::lock_guard lock(mutex_);
    status_ = status;
    has_status_ = true;
    ended_.notify_all();
  }
  int max_unread_events() const override { return context_.limits.max_unread_events; }

  const bool stalled_;
  std::condition_variable ended_;
  bool has_status_ = false;
  grpc::Status status_;
  std::vector<int> tokens_;
};

class EngineCallTest : public ::testing::Test {
 protected:
  EngineCallTest() {
    options_.models.resize(1);
    options_.models[0].name = options_.default_model = "demo";
    options_.models[0].path = FLA_SOURCE_DIR "/demo/model";
    options_.models[0].device = "cpu";
    options_.models[0].slots = 4;
    options_.limits.max_unread_events = 8;
    registry_ = std::make_unique<ModelRegistry>(options_, metrics_);
  }

  std::shared_ptr<RecordingCall> Start(const v1::GenerateRequest& message, bool stalled = false,
                                       std::chrono::seconds time = std::chrono::hours(1)) {
    auto call = std::make_shared<RecordingCall>(
        CallContext{*registry_, options_.limits, writer_, access_, nullptr, &open_calls_}, stalled);
    call->Start(message, ++id_, std::chrono::system_clock::now() + time);
    return call;
  }

  static v1::GenerateRequest Message(int seed, int tokens) {
    v1::GenerateRequest message;
    message.set_text("Once upon a time");
    message.set_max_new_tokens(tokens);
    message.set_ignore_eos(true);
    message.mutable_sampling()->set_seed(seed);
    return message;
  }

  int SlotsUsed() const { return registry_->table()->entries[0].served->engine->slots_used(); }

  void ExpectAllSlotsFreeSoon() {
    const auto give_up = Clock::now() + std::chrono::seconds(60);
    while (SlotsUsed() > 0 && Clock::now() < give_up) std::this_thread::yield();
    EXPECT_EQ(SlotsUsed(), 0);
  }

  ServerOptions options_;
  Metrics metrics_;
  WriterThread writer_;
  GrpcAccess access_;
  std::unique_ptr<ModelRegistry> registry_;
  std::atomic<uint64_t> id_ = 0;
  std::atomic<int> open_calls_ = 0;
};

TEST_F(EngineCallTest, CallsFromManyThreadsGetTheirOwnTokens) {
  constexpr int kThreads = 4, kEach = 3, kTokens = 6;
  std::vector<std::vector<int>> alone;
  for (int seed = 0; seed < kThreads * kEach; ++seed) {
    const auto call = Start(Message(seed, kTokens));
    EXPECT_TRUE(call->Wait().ok());
    alone.push_back(call->tokens());
    EXPECT_EQ(alone.back().size(), static_cast<size_t>(kTokens));
  }
  std::vector<std::vector<int>> together(alone.size());
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int seed = t * kEach; seed < (t + 1) * kEach; ++seed) {
        const auto call = Start(Message(seed, kTokens));
        EXPECT_TRUE(call->Wait().ok());
        together[seed] = call->tokens();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(together, ElementsAreArray(alone));
}

TEST_F(EngineCallTest, CancellingEndsTheCallAndFreesItsSlots) {
  v1::GenerateRequest message = Message(1, 30000);
  message.set_n(3);
  const auto call = Start(message);
  while (SlotsUsed() < 3) std::this_thread::yield();
  call->Cancel();
  EXPECT_EQ(call->Wait().error_code(), grpc::StatusCode::CANCELLED);
  ExpectAllSlotsFreeSoon();
}

TEST_F(EngineCallTest, ADeadlineThatHasPassedEndsTheCall) {
  const auto call = Start(Message(1, 30000), false, std::chrono::seconds(-1));
  EXPECT_EQ(call->Wait().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ExpectAllSlotsFreeSoon();
}

TEST_F(EngineCallTest, AReaderThatFallsTooFarBehindIsCutOff) {
  const auto call = Start(Message(1, 30000), true);
  EXPECT_EQ(call->Wait().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(call->tokens().empty());
  ExpectAllSlotsFreeSoon();
}

TEST_F(EngineCallTest, ARefusedRequestEndsAtOnceAndIsCounted) {
  v1::GenerateRequest message = Message(1, 5);
  message.set_n(0);
  EXPECT_EQ(Start(message)->Wait().error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  message = Message(1, 5);
  message.set_model("other");
  const grpc::Status status = Start(message)->Wait();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("wanted one of demo, got other"));
}

TEST_F(EngineCallTest, TooManyCallsAtOnceAreRefused) {
  options_.limits.max_concurrent_streams = 2;
  const auto first = Start(Message(1, 30000)), second = Start(Message(2, 30000));
  {
    const grpc::Status status = Start(Message(3, 5))->Wait();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_THAT(status.error_message(), HasSubstr("max_concurrent_streams is 2"));
    EXPECT_FALSE(status.error_details().empty());
  }
  first->Cancel();
  second->Cancel();
  EXPECT_EQ(first->Wait().error_code(), grpc::StatusCode::CANCELLED);
  ExpectAllSlotsFreeSoon();
}

TEST_F(EngineCallTest, TheServersTimeForARequestIsABound) {
  options_.limits.max_request_seconds = 0.05;
  const grpc::Status status = Start(Message(1, 30000))->Wait();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(status.error_message(), HasSubstr("max_request_seconds, 0.05 s"));
  ExpectAllSlotsFreeSoon();
}

TEST_F(EngineCallTest, LowerPriorityValuesAreServedFirst) {
  options_.models[0].slots = 1;
  registry_ = std::make_unique<ModelRegistry>(options_, metrics_);
  const auto running = Start(Message(1, 30000));
  while (SlotsUsed() < 1) std::this_thread::yield();
  v1::GenerateRequest low = Message(2, 30000), high = Message(3, 3);
  low.set_priority(1);
  const auto later = Start(low), sooner = Start(high);
  running->Cancel();
  EXPECT_TRUE(sooner->Wait().ok());  // while the other, which came first, has no end
  later->Cancel();
  ExpectAllSlotsFreeSoon();
}

TEST(GrpcStatusTest, ARetryHintTravelsAsRetryInfo) {
  const absl::Status full = absl::ResourceExhaustedError("full");
  EXPECT_TRUE(ToGrpcStatus(full).error_details().empty());
  const grpc::Status status = ToGrpcStatus(WithRetryAfter(full, std::chrono::milliseconds(2345)));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "full");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), 8);
  EXPECT_EQ(details.message(), "full");
  ASSERT_EQ(details.details_size(), 1);
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(details.details(0).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 345000000);
}

TEST_F(EngineCallTest, DrainingRefusesNewCallsAndCutsOffAtTheDeadline) {
  const auto running = Start(Message(1, 30000));
  EXPECT_FALSE(registry_->Drain(Clock::now() + std::chrono::milliseconds(50)));
  EXPECT_EQ(running->Wait().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Start(Message(1, 5))->Wait().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(registry_->Drain(Clock::now() + std::chrono::seconds(1)));
}

}  // namespace
}  // namespace fla
