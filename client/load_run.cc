#include "client/load_run.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "proto/grpc_handover.h"

namespace fla::client {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kReportInterval(200);

// What the calls of a run share.
//
// Thread safety: all methods but Run may be called from any thread.
class LoadRun {
 public:
  LoadRun(const Connection& connection, const LoadOptions& options, LoadPlan plan)
      : connection_(connection), options_(options), plan_(std::move(plan)) {
    for (int i = 0; i < options.connections; ++i) {
      stubs_.push_back(v1::Inference::NewStub(connection.Open()));
    }
  }

  std::vector<RequestRecord> Run(const std::function<void(const LoadProgress&)>& report);

  double Now() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }
  const Connection& connection() const { return connection_; }
  const LoadOptions& options() const { return options_; }
  void CountTokens(int tokens);
  void Finish(RequestRecord record);

 private:
  void Start(const PlannedRequest& request);

  const Connection& connection_;
  const LoadOptions& options_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  Clock::time_point begin_;
  LoadPlan plan_;  // of the thread in Run

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  LoadProgress progress_;
  std::vector<RequestRecord> records_;
};

// One stream. Deletes itself when gRPC is done with it.
class Call final : public grpc::ClientReadReactor<v1::GenerateStreamResponse> {
 public:
  Call(LoadRun& run, v1::Inference::Stub& stub, const PlannedRequest& request)
      : run_(run), cancel_after_(request.cancel_after) {
    record_.index = request.index;
    record_.prompt_tokens = static_cast<int>(request.prompt.size());
    record_.sent = run.Now();
    record_.start = run.options().concurrency > 0 ? record_.sent : request.start_seconds;

    message_.set_model(run.options().model);
    message_.set_request_id("load-" + std::to_string(request.index));
    message_.mutable_token_ids()->mutable_ids()->Add(request.prompt.begin(), request.prompt.end());
    message_.set_max_new_tokens(request.output_tokens);
    message_.set_ignore_eos(true);
    message_.mutable_sampling()->set_seed(request.sampling_seed);
    message_.mutable_sampling()->set_temperature(run.options().temperature);
    run.connection().Apply(context_);
    stub.async()->GenerateStream(&context_, &message_, this);
    StartRead(&response_);
    CancelIfPlanned();  // before the first reaction can come
    GiveToGrpc(this);
    StartCall();
  }

 private:
  void OnReadDone(bool ok) override {
    TakeFromGrpc(this);
    if (!ok) return;
    const double now = run_.Now();
    const v1::Choice& delta = response_.delta();
    if (delta.token_ids_size() > 0) {
      if (record_.completion_tokens == 0) {
        record_.first_token = now;
      } else {
        record_.gaps.push_back(static_cast<float>(now - record_.last_token));
      }
      record_.last_token = now;
      record_.completion_tokens += delta.token_ids_size();
      for (const int token : delta.token_ids()) {
        record_.token_hash = Random(record_.token_hash ^ static_cast<uint32_t>(token)).Bits();
      }
      run_.CountTokens(delta.token_ids_size());
      CancelIfPlanned();
    }
    if (response_.has_timings()) record_.queue_seconds = response_.timings().queue_seconds();
    GiveToGrpc(this);
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    TakeFromGrpc(this);
    record_.end = run_.Now();
    record_.code = status.error_code();
    record_.error = status.error_message();
    if (record_.code != grpc::StatusCode::CANCELLED) record_.cancelled_here = false;
    // What gRPC gave the call goes first: the run, and the process, may end with Finish.
    LoadRun& run = run_;
    RequestRecord record = std::move(record_);
    delete this;
    run.Finish(std::move(record));
  }

  void CancelIfPlanned() {
    if (!cancel_after_ || record_.completion_tokens < *cancel_after_) return;
    record_.cancelled_here = true;
    context_.TryCancel();
    cancel_after_.reset();
  }

  LoadRun& run_;
  std::optional<int> cancel_after_;
  RequestRecord record_;
  grpc::ClientContext context_;
  v1::GenerateRequest message_;
  v1::GenerateStreamResponse response_;
};

std::vector<RequestRecord> LoadRun::Run(const std::function<void(const LoadProgress&)>& report) {
  begin_ = Clock::now();
  PlannedRequest next = plan_.Next();
  Clock::time_point next_report = begin_;
  std::unique_lock lock(mutex_);
  while (true) {
    const bool more = (!options_.requests || next.index < *options_.requests) &&
                      (!options_.duration_seconds ||
                       std::max(Now(), next.start_seconds) < *options_.duration_seconds);
    if (!more && progress_.finished == progress_.started) break;
    const bool room =
        options_.concurrency == 0 || progress_.started - progress_.finished < options_.concurrency;
    if (more && room && Now() >= next.start_seconds) {
      ++progress_.started;
      lock.unlock();
      Start(next);
      next = plan_.Next();
      lock.lock();
      continue;
    }
    Clock::time_point wake = next_report;
    if (more && room) {
      const std::chrono::duration<double> start(next.start_seconds);
      wake = std::min(wake, begin_ + std::chrono::duration_cast<Clock::duration>(start));
    }
    changed_.wait_until(lock, wake);
    if (Clock::now() >= next_report) {
      progress_.seconds = Now();
      report(progress_);
      next_report = Clock::now() + kReportInterval;
    }
  }
  progress_.seconds = Now();
  report(progress_);
  std::sort(records_.begin(), records_.end(),
            [](const auto& a, const auto& b) { return a.index < b.index; });
  return std::move(records_);
}

void LoadRun::Start(const PlannedRequest& request) {
  new Call(*this, *stubs_[request.index % stubs_.size()], request);
}

void LoadRun::CountTokens(int tokens) {
  const std::lock_guard lock(mutex_);
  progress_.completion_tokens += tokens;
}

void LoadRun::Finish(RequestRecord record) {
  const std::lock_guard lock(mutex_);
  ++progress_.finished;
  if (record.code != grpc::StatusCode::OK && !record.cancelled_here) ++progress_.failed;
  records_.push_back(std::move(record));
  // With the lock held: the run may be over, and gone, as soon as it is free.
  changed_.notify_all();
}

}  // namespace

std::vector<RequestRecord> RunLoad(const Connection& connection, const LoadOptions& options,
                                   LoadPlan plan,
                                   const std::function<void(const LoadProgress&)>& report) {
  return LoadRun(connection, options, std::move(plan)).Run(report);
}

}  // namespace fla::client
