// Models that come and go while requests run, on the threads that do it in the server.
#include "server/model_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/testing/byte_tokenizer.h"
#include "tests/testing/temporary_folder.h"

namespace fla {
namespace {

using ::testing::HasSubstr;

constexpr int kTokens = 12;

// Collects the tokens of one request.
class Sink final : public EventSink {
 public:
  void Deliver(Event event) override {
    const std::lock_guard lock(mutex_);
    tokens_.insert(tokens_.end(), event.tokens.begin(), event.tokens.end());
    if (event.finish) finished_.set_value(event.finish->status);
  }
  // The tokens, or why there are none.
  absl::StatusOr<std::vector<int>> Wait() {
    const absl::Status status = finished_.get_future().get();
    if (!status.ok()) return status;
    const std::lock_guard lock(mutex_);
    return tokens_;
  }

 private:
  std::mutex mutex_;
  std::vector<int> tokens_;  // guarded by mutex_
  std::promise<absl::Status> finished_;
};

class ModelRegistryTest : public ::testing::Test {
 protected:
  ModelRegistryTest() {
    for (const char* name : {"gla", "kda"}) CopyGolden(name);
    options_.models = {Model("m", "gla")};
    options_.default_model = "m";
  }

  void CopyGolden(const std::string& name) {
    std::filesystem::create_directory(folder_.path() / name);
    const std::filesystem::path golden = std::filesystem::path(FLA_SOURCE_DIR) / "tests/golden";
    for (const char* file : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(golden / name / file, folder_.path() / name / file);
    }
    folder_.Write(name + "/tokenizer.json", testing::ByteTokenizerJson());
  }
  ModelOptions Model(const std::string& name, const std::string& checkpoint) const {
    ModelOptions model;
    model.name = name;
    model.path = folder_.path() / checkpoint;
    model.device = "cpu";
    model.slots = 4;
    model.max_batch_tokens = 32;
    return model;
  }

  absl::StatusOr<ModelLease> Acquire(const std::string& name = "") {
    std::promise<absl::StatusOr<ModelLease>> promise;
    registry_->Acquire(name, nullptr, [&](auto lease) { promise.set_value(std::move(lease)); });
    return promise.get_future().get();
  }
  absl::Status Apply() {
    std::promise<absl::Status> promise;
    registry_->Apply(options_, [&](absl::Status status) { promise.set_value(std::move(status)); });
    return promise.get_future().get();
  }
  static absl::StatusOr<std::vector<int>> Generate(const ModelLease& lease, int tokens = kTokens) {
    auto sink = std::make_shared<Sink>();
    Request request;
    request.prompt = {1, 2, 3};
    request.sampling.temperature = 0;
    request.max_new_tokens = tokens;
    request.ignore_eos = true;
    request.received = Clock::now();
    request.sink = sink;
    const absl::Status status = lease.served->engine->Submit({request});
    if (!status.ok()) return status;
    return sink->Wait();
  }
  void Start() { registry_ = std::make_unique<ModelRegistry>(options_, metrics_); }
  bool EventuallyOneVersion() {
    const auto give_up = Clock::now() + std::chrono::seconds(60);
    while (Clock::now() < give_up) {
      if (registry_->table()->draining.empty()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  testing::TemporaryFolder folder_;
  ServerOptions options_;
  Metrics metrics_;
  std::unique_ptr<ModelRegistry> registry_;
};

TEST_F(ModelRegistryTest, RequestsEndOnTheVersionTheyBeganOnWhileModelsAreSwapped) {
  Start();
  std::map<std::string, std::vector<int>> expected;
  for (const char* checkpoint : {"kda", "gla"}) {
    options_.models = {Model("m", checkpoint)};
    ASSERT_TRUE(Apply().ok());
    const ModelLease lease = *Acquire();
    expected[lease.served->version] = *Generate(lease);
  }
  ASSERT_EQ(expected.size(), 2u);
  std::atomic<bool> stop = false;
  std::atomic<int> answered = 0;
  std::vector<std::thread> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back([&] {
      while (!stop) {
        const absl::StatusOr<ModelLease> lease = Acquire("m");
        ASSERT_TRUE(lease.ok()) << lease.status();
        const auto tokens = Generate(*lease);
        ASSERT_TRUE(tokens.ok()) << tokens.status();
        EXPECT_EQ(*tokens, expected.at(lease->served->version));
        ++answered;
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    options_.models = {Model("m", i % 2 == 0 ? "kda" : "gla")};
    EXPECT_TRUE(Apply().ok());
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_GT(answered, 20);
  EXPECT_TRUE(EventuallyOneVersion());
}

TEST_F(ModelRegistryTest, TheNewestOfManyConfigurationsWins) {
  Start();
  std::vector<std::future<absl::Status>> outcomes;
  for (int i = 0; i < 20; ++i) {
    options_.models = {Model("m", i % 2 == 0 ? "gla" : "kda")};
    auto promise = std::make_shared<std::promise<absl::Status>>();
    outcomes.push_back(promise->get_future());
    registry_->Apply(options_, [promise](absl::Status status) { promise->set_value(status); });
  }
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const absl::Status status = outcomes[i].get();
    EXPECT_TRUE(status.ok() || (absl::IsAborted(status) && i + 1 < outcomes.size())) << status;
  }
  EXPECT_EQ(Acquire()->served->engine->config().model_type, "kda");
}

TEST_F(ModelRegistryTest, ALoadDoesNotReplaceTheConfigurationThatComes) {
  Start();
  for (int i = 0; i < 20; ++i) {
    const std::string checkpoint = i % 2 == 0 ? "kda" : "gla";
    options_.models = {Model("m", checkpoint)};
    std::promise<absl::Status> applied;
    std::promise<absl::StatusOr<ModelLease>> loaded;
    registry_->Apply(options_, [&](absl::Status status) { applied.set_value(std::move(status)); });
    std::this_thread::sleep_for(std::chrono::milliseconds(i / 2));  // checked, loaded, live
    registry_->Load("m", [&](auto lease) { loaded.set_value(std::move(lease)); });
    const absl::Status status = applied.get_future().get();
    EXPECT_TRUE(status.ok()) << status;
    const absl::StatusOr<ModelLease> lease = loaded.get_future().get();
    ASSERT_TRUE(lease.ok()) << lease.status();
    EXPECT_EQ(lease->served->engine->config().model_type, checkpoint);
  }
}

TEST_F(ModelRegistryTest, OneLoadServesAllThatWaitForIt) {
  options_.models.push_back(Model("d", "kda"));
  options_.models[1].preload = options_.models[1].pinned = false;
  Start();
  std::vector<std::future<absl::StatusOr<ModelLease>>> leases;
  for (int i = 0; i < 8; ++i) {
    leases.push_back(std::async(std::launch::async, [&] { return Acquire("d"); }));
  }
  std::set<const ServedModel*> versions;
  for (auto& lease : leases) versions.insert(lease.get()->served.get());
  EXPECT_EQ(versions.size(), 1u);
  EXPECT_NE(*versions.begin(), nullptr);
}

TEST_F(ModelRegistryTest, TooManyDoNotWait) {
  options_.limits.max_queued_requests = 2;
  options_.models.push_back(Model("d", "kda"));
  options_.models[1].preload = false;
  Start();
  const auto refused = std::make_shared<std::atomic<int>>(0);
  for (int i = 0; i < 2000; ++i) {
    registry_->Acquire("d", nullptr, [refused](const auto& lease) {
      if (lease.ok()) return;
      EXPECT_TRUE(absl::IsResourceExhausted(lease.status())) << lease.status();
      ++*refused;
    });
  }
  EXPECT_GT(*refused, 0);
  while (!Acquire("d").ok()) std::this_thread::yield();
}

TEST_F(ModelRegistryTest, ThoseWhoHaveCancelledMakeRoomForOthers) {
  options_.limits.max_queued_requests = 1;
  options_.models.push_back(Model("d", "kda"));
  options_.models[1].preload = false;
  Start();
  const auto cancelled = std::make_shared<std::atomic<bool>>(true);
  for (int i = 0; i < 50; ++i) {
    registry_->Acquire("d", cancelled, [](const auto& lease) {
      EXPECT_FALSE(absl::IsResourceExhausted(lease.status()));
    });
  }
  EXPECT_TRUE(Acquire("d").ok());
}

TEST_F(ModelRegistryTest, ABrokenCandidateChangesNothing) {
  Start();
  const ModelLease before = *Acquire();
  folder_.Write("kda/config.json", "{");
  options_.models = {Model("m", "gla"), Model("n", "kda")};
  options_.models[0].slots = 3;
  const absl::Status status = Apply();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model n: "));
  EXPECT_EQ(Acquire()->served, before.served);
  EXPECT_TRUE(absl::IsNotFound(Acquire("n").status()));
  ASSERT_EQ(registry_->table()->failures.size(), 1u);
  EXPECT_EQ(registry_->table()->failures[0].name, "n");
  options_.models.pop_back();
  EXPECT_TRUE(Apply().ok());
  EXPECT_TRUE(registry_->table()->failures.empty());
  EXPECT_EQ(Acquire()->served->engine->slots_total(), 3);
}

TEST_F(ModelRegistryTest, ABrokenCandidateDoesNotKeepAModelFromItsFirstUse) {
  const auto serves = [&] {
    const auto table = registry_->table();
    return table->Serves(*table->Find("d"));
  };
  options_.models.push_back(Model("d", "kda"));
  options_.models[1].preload = options_.models[1].pinned = false;
  Start();
  options_.models[1].path = folder_.path() / "nowhere";
  EXPECT_TRUE(absl::IsFailedPrecondition(Apply()));
  EXPECT_TRUE(serves());
  options_.models[1].path = folder_.path() / "kda";
  EXPECT_TRUE(Apply().ok());
  EXPECT_TRUE(registry_->table()->failures.empty());
  EXPECT_TRUE(serves());

  folder_.Write("kda/model.safetensors", "no more");
  EXPECT_TRUE(absl::IsFailedPrecondition(Acquire("d").status()));
  EXPECT_FALSE(serves());
  options_.models[1].path = folder_.path() / "gla";
  EXPECT_TRUE(Apply().ok());
  EXPECT_TRUE(registry_->table()->failures.empty());
  EXPECT_TRUE(serves());
  EXPECT_TRUE(Acquire("d").ok());
}

TEST_F(ModelRegistryTest, AModelThatCannotBeLoadedAtTheStartIsAnError) {
  options_.models.push_back(Model("n", "nowhere"));
  try {
    Start();
    ADD_FAILURE() << "started";
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), HasSubstr("model n: "));
  }
}

TEST_F(ModelRegistryTest, DrainingAnswersThoseThatWait) {
  options_.models.push_back(Model("d", "kda"));
  options_.models[1].preload = false;
  Start();
  const ModelLease lease = *Acquire();
  std::vector<std::future<absl::StatusOr<ModelLease>>> waiting;
  for (int i = 0; i < 4; ++i) {
    waiting.push_back(std::async(std::launch::async, [&] { return Acquire("d"); }));
  }
  registry_->Drain(Clock::now());
  for (auto& one : waiting) {
    const auto result = one.get();
    EXPECT_TRUE(result.ok() || absl::IsUnavailable(result.status())) << result.status();
  }
  EXPECT_TRUE(absl::IsUnavailable(Apply()));
  EXPECT_TRUE(absl::IsUnavailable(Generate(lease).status()));
}

}  // namespace
}  // namespace fla
