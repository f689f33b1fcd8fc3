#include "server/engine.h"

#include <spdlog/spdlog.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/continuous_batch.h"
#include "server/request_queue.h"
#include "server/retry_after.h"

namespace fla {
namespace {

// How long an engine that runs a GPU looks for the next request before its thread sleeps: to be
// woken takes it 20 to 400 us, which a first token would come later. A client that asks again at
// once does so within this time.
constexpr Clock::duration kAwake = std::chrono::milliseconds(1);

// How long it looks for requests instead of waiting for a step, which would also tell it of a
// device that has failed.
constexpr Clock::duration kLookOut = std::chrono::milliseconds(100);

const EngineOptions& Validated(const EngineOptions& options) {
  if (options.slots < 1) throw std::invalid_argument("engine: slots: wanted at least 1");
  if (options.max_batch_tokens < 2) {
    throw std::invalid_argument("engine: max_batch_tokens: wanted at least 2");
  }
  if (options.max_queued_requests < 1) {
    throw std::invalid_argument("engine: max_queued_requests: wanted at least 1");
  }
  return options;
}

}  // namespace

struct Engine::Parts {
  Parts(std::unique_ptr<Model> model_in, std::shared_ptr<const Tokenizer> tokenizer_in,
        const EngineOptions& options_in, ModelMetrics& metrics_in)
      : model(std::move(model_in)),
        tokenizer(std::move(tokenizer_in)),
        options(Validated(options_in)),
        metrics(metrics_in),
        waiting(metrics.waiting()),
        waiting_limit(metrics.waiting_limit()),
        queue(options.max_queued_requests, options.max_queued_tokens),
        batch(*model, *tokenizer,
              {.slots = options.slots,
               .max_batch_tokens = options.max_batch_tokens,
               .max_prefill_tokens = options.max_prefill_tokens,
               .states = options.states,
               .launch_ahead = options.launch_ahead},
              metrics) {
    waiting_limit.Set(options.max_queued_requests);
  }

  // The engine's thread.
  void Run();
  void Tick();
  void DropEndedInQueue(Clock::time_point now);
  void EndQueued(std::vector<QueuedRequest> requests, FinishReason reason,
                 const absl::Status& status);
  void EndEverything(const absl::Status& status);
  void Deliver() { AddOutstanding(-batch.Deliver()); }

  // Any thread.
  void AddOutstanding(int requests);
  absl::Status QueueIsFull(RequestQueue::PushResult result, int requests) const;

  const std::unique_ptr<Model> model;
  const std::shared_ptr<const Tokenizer> tokenizer;
  const EngineOptions options;
  ModelMetrics& metrics;
  GaugePart waiting;
  GaugePart waiting_limit;
  RequestQueue queue;
  ContinuousBatch batch;  // of the engine's thread, once it runs

  std::atomic<bool> failed = false;
  std::atomic<bool> cut_off = false;  // end what there is with UNAVAILABLE
  std::atomic<bool> stop = false;     // and leave the thread

  std::mutex mutex;
  std::condition_variable all_done;
  int outstanding = 0;  // submitted, finish not delivered; guarded by mutex

  std::thread thread;
};

void Engine::Parts::Run() {
  while (true) {
    if (batch.empty()) queue.Wait(options.launch_ahead ? kAwake : Clock::duration::zero());
    if (stop || cut_off) EndEverything(absl::UnavailableError("the server is shutting down"));
    if (stop) return;
    try {
      Tick();
    } catch (const std::exception& error) {
      if (!failed) {
        spdlog::critical("the engine has failed and takes no more requests: {}", error.what());
      }
      failed = true;
      metrics.SetServing(false);
      queue.Close();
      EndEverything(
          absl::InternalError(std::string("the model's device has failed: ") + error.what()));
    }
  }
}

void Engine::Parts::Tick() {
  const Clock::time_point now = Clock::now();
  DropEndedInQueue(now);
  batch.DropEnded(now);
  Deliver();
  while (!batch.full()) {
    std::optional<QueuedRequest> next = queue.Pop(now);
    if (!next.has_value()) break;
    batch.Admit(std::move(*next));
  }
  waiting.Set(queue.size());
  if (batch.empty()) return;
  // What comes while there is nothing to launch is launched behind the step on its way, not after
  // that has come to its end. A batch behind prompts alone is launched when these near their end:
  // the device is busy until then, and who comes meanwhile is in the batch, not behind it.
  if (!batch.full()) {
    const bool can_launch = batch.CanLaunch();
    const auto due = [&] { return can_launch ? batch.StepNearsEnd() : batch.StepIsDone(); };
    if (!queue.WaitUntil(due, kLookOut)) return;
    if (can_launch && !due()) return;  // of a long step
  }
  batch.RunStep();
  Deliver();
}

void Engine::Parts::DropEndedInQueue(Clock::time_point now) {
  // In this order: gRPC cancels a call whose deadline passes.
  EndQueued(queue.TakeIf([now](const Request& request) { return IsExpired(request, now); }),
            FinishReason::kDeadline,
            absl::DeadlineExceededError("the deadline passed while the request was queued"));
  EndQueued(queue.TakeIf(IsCancelled), FinishReason::kCancelled, absl::OkStatus());
}

void Engine::Parts::EndQueued(std::vector<QueuedRequest> requests, FinishReason reason,
                              const absl::Status& status) {
  if (requests.empty()) return;
  waiting.Set(queue.size());
  for (const QueuedRequest& queued : requests) {
    const Request& request = queued.request;
    Finish finish;
    finish.reason = reason;
    finish.status = status;
    finish.prompt_tokens = static_cast<int>(request.prompt.size());
    finish.times.received = request.received;
    finish.times.finished = Clock::now();
    metrics.ObserveFinish(finish);
    Event event;
    event.choice = request.choice;
    event.finish = std::move(finish);
    request.sink->Deliver(std::move(event));
    AddOutstanding(-1);
  }
}

void Engine::Parts::EndEverything(const absl::Status& status) {
  batch.EndAll(status);
  Deliver();
  EndQueued(queue.TakeIf([](const Request&) { return true; }), FinishReason::kCancelled, status);
}

void Engine::Parts::AddOutstanding(int requests) {
  const std::lock_guard<std::mutex> lock(mutex);
  outstanding += requests;
  if (outstanding == 0) all_done.notify_all();
}

absl::Status Engine::Parts::QueueIsFull(RequestQueue::PushResult result, int requests) const {
  const std::chrono::milliseconds wait = queue.RetryAfter(requests);
  const std::string bound =
      result == RequestQueue::PushResult::kTooManyRequests
          ? absl::StrCat("max_queued_requests is ", options.max_queued_requests, ", ", queue.size(),
                         " wait, ", requests, " came")
          : absl::StrCat("max_queued_tokens is ", options.max_queued_tokens, ", prompts of ",
                         queue.tokens(), " wait");
  return WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", bound, "; try again in ",
                                                absl::StrFormat("%.1f s", wait.count() / 1e3))),
      wait);
}

Engine::Engine(std::unique_ptr<Model> model, std::shared_ptr<const Tokenizer> tokenizer,
               const EngineOptions& options, ModelMetrics& metrics)
    : parts_(std::make_unique<Parts>(std::move(model), std::move(tokenizer), options, metrics)) {
  parts_->thread = std::thread([parts = parts_.get()] { parts->Run(); });
}

Engine::~Engine() {
  parts_->queue.Close();
  parts_->stop = true;
  parts_->queue.Wake();
  parts_->thread.join();
}

absl::Status Engine::Submit(std::vector<Request> choices) {
  const int count = static_cast<int>(choices.size());
  parts_->AddOutstanding(count);
  const RequestQueue::PushResult result = parts_->queue.Push(std::move(choices));
  if (result == RequestQueue::PushResult::kQueued) return absl::OkStatus();
  parts_->AddOutstanding(-count);
  if (result == RequestQueue::PushResult::kTooManyRequests ||
      result == RequestQueue::PushResult::kTooManyTokens) {
    parts_->metrics.CountRejection(Rejection::kQueueFull, count);
    return parts_->QueueIsFull(result, count);
  }
  if (parts_->failed) {
    parts_->metrics.CountRejection(Rejection::kFailed, count);
    return absl::InternalError("the model's device has failed");
  }
  parts_->metrics.CountRejection(Rejection::kDraining, count);
  return absl::UnavailableError("the server is draining");
}

void Engine::NotifyCancelled() { parts_->queue.Wake(); }

bool Engine::Drain(Clock::time_point deadline) {
  parts_->queue.Close();
  std::unique_lock<std::mutex> lock(parts_->mutex);
  const auto done = [this] { return parts_->outstanding == 0; };
  if (parts_->all_done.wait_until(lock, deadline, done)) return true;
  parts_->cut_off = true;
  parts_->queue.Wake();
  parts_->all_done.wait(lock, done);
  return false;
}

bool Engine::healthy() const { return !parts_->failed; }
int Engine::slots_total() const { return parts_->options.slots; }
int Engine::slots_used() const { return parts_->batch.slots_used(); }
const ModelConfig& Engine::config() const { return parts_->model->config(); }
const Model& Engine::model() const { return *parts_->model; }

}  // namespace fla
