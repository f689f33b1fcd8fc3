#include "server/engine_call.h"

#include <spdlog/spdlog.h>

#include <exception>
#include <iterator>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/grpc_status.h"
#include "server/request_queue.h"
#include "server/retry_after.h"
#include "server/translate.h"

namespace fla {
namespace {

uint64_t RandomSeed() {
  thread_local std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// gRPC counts by the system's clock, the engine by the steady one.
std::optional<Clock::time_point> SteadyDeadline(std::chrono::system_clock::time_point deadline,
                                                Clock::time_point now) {
  const auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return std::nullopt;  // none was set
  return now + std::chrono::duration_cast<Clock::duration>(left);
}

Clock::duration InClock(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

const char* NameOf(const Finish& finish) {
  if (!finish.status.ok()) return "error";
  switch (finish.reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kEmbedded:
      return "embedded";
  }
  return "?";
}

}  // namespace

std::string PromptText(const v1::GenerateRequest& message) {
  if (message.has_chat()) {
    return absl::StrJoin(message.chat().messages(), "\n",
                         [](std::string* line, const v1::ChatMessage& one) {
                           absl::StrAppend(line, one.role(), ": ", one.content());
                         });
  }
  if (!message.has_token_ids()) return message.text();
  return absl::StrJoin(message.token_ids().ids(), " ");
}

std::string PromptText(const v1::EmbedRequest& message) {
  const auto append = [](std::string* line, const v1::EmbedInput& input) {
    if (input.has_vectors()) {
      absl::StrAppend(line, input.vectors().rows(), " vectors");
    } else if (input.has_token_ids()) {
      absl::StrAppend(line, absl::StrJoin(input.token_ids().ids(), " "));
    } else {
      line->append(input.text());
    }
  };
  return absl::StrJoin(message.inputs(), "\n", append);
}

EngineCall::EngineCall(const CallContext& context, Totals::Of choices)
    : context_(context), totals_(choices) {
  if (context_.open_calls != nullptr) ++*context_.open_calls;
}

EngineCall::~EngineCall() {
  if (context_.open_calls != nullptr) --*context_.open_calls;
}

void EngineCall::StartWith(const std::string& request_id, const std::string& model, uint64_t id,
                           std::chrono::system_clock::time_point deadline,
                           const absl::Status& access) {
  id_ = id;
  received_ = Clock::now();
  try {
    client_request_id_ = request_id;
    if (context_.log != nullptr && context_.log->wants_prompts()) prompt_ = prompt_text_();
    if (!access.ok()) return Refuse(access);
    if (const absl::Status status = CheckConcurrency(); !status.ok()) {
      CountTooMany(model);
      return Refuse(status);
    }
    context_.registry.Acquire(
        model, cancelled_,
        [self = shared_from_this(), deadline](const auto& lease) { self->Begin(lease, deadline); });
  } catch (const std::exception& error) {
    Refuse(InternalError(error));
  }
}

void EngineCall::Begin(const absl::StatusOr<ModelLease>& lease,
                       std::chrono::system_clock::time_point deadline) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;  // cancelled while it waited; the message may be gone
    begun_ = true;
  }
  absl::Status status = lease.status();
  try {
    if (status.ok()) status = Submit(*lease, deadline);
  } catch (const std::exception& error) {
    status = InternalError(error);
  }
  if (!status.ok()) Refuse(status);
}

void EngineCall::Refuse(const absl::Status& status) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(closed_, true)) return;
    served_.reset();
  }
  WriteLog(status);
  FinishWith(ToGrpcStatus(status));
}

absl::Status EngineCall::CheckConcurrency() const {
  const int most = context_.limits.max_concurrent_streams;
  if (context_.open_calls == nullptr || *context_.open_calls <= most) return absl::OkStatus();
  return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                            "too many calls at once: max_concurrent_streams is ", most)),
                        std::chrono::seconds(1));
}

void EngineCall::CountTooMany(const std::string& model) const {
  const std::shared_ptr<const ModelTable> table = context_.registry.table();
  const ModelTable::Entry* const entry = table->Find(model);
  if (entry == nullptr || entry->served == nullptr) return;
  entry->served->metrics->CountRejection(Rejection::kTooManyCalls);
}

absl::Status EngineCall::Submit(const ModelLease& lease,
                                std::chrono::system_clock::time_point deadline) {
  const Limits& limits = context_.limits;
  const ServedModel& served = *lease.served;
  model_name_ = lease.options->name;
  model_version_ = served.version;
  tokenizer_ = served.tokenizer;
  hidden_size_ = served.engine->config().hidden_size;
  absl::StatusOr<std::vector<Request>> choices =
      translate_({served.engine->config(), *tokenizer_, limits, SamplingDefaults(lease),
                  RandomSeed(), served.chat.get()});
  if (!choices.ok()) {
    served.metrics->CountRejection(Rejection::kInvalid);
    return choices.status();
  }
  const Clock::time_point latest = received_ + InClock(limits.max_request_seconds);
  const std::optional<Clock::time_point> wanted = SteadyDeadline(deadline, Clock::now());
  deadline_is_the_servers_ = !wanted || *wanted > latest;
  for (Request& choice : *choices) {
    choice.id = id_;
    choice.received = received_;
    choice.due = DueTime(received_, choice.priority, InClock(limits.priority_aging_seconds));
    choice.deadline = deadline_is_the_servers_ ? latest : *wanted;
    choice.cancelled = cancelled_;
    choice.sink = shared_from_this();
  }
  choices_ = static_cast<int>(choices->size());
  {
    const std::lock_guard lock(mutex_);
    served_ = lease.served;
  }
  return served.engine->Submit(*std::move(choices));
}

absl::Status EngineCall::StatusOf(const Finish& finish) const {
  if (finish.reason == FinishReason::kDeadline && deadline_is_the_servers_) {
    return absl::DeadlineExceededError(
        absl::StrCat("the request took longer than max_request_seconds, ",
                     context_.limits.max_request_seconds, " s"));
  }
  if (!finish.status.ok()) return finish.status;
  if (finish.reason == FinishReason::kCancelled) return absl::CancelledError("cancelled");
  if (finish.reason == FinishReason::kDeadline) {
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline passed while ",
                     totals_.of() == Totals::kInputs ? "embedding" : "generating"));
  }
  return absl::OkStatus();
}

absl::Status EngineCall::InternalError(const std::exception& error) const {
  spdlog::error("request {}: {}", id_, error.what());
  return absl::InternalError("the server has failed; its log says more, at request " +
                             std::to_string(id_));
}

void EngineCall::Deliver(Event event) {
  std::shared_ptr<const ServedModel> done_with;  // let go without mutex_
  const bool alone = event.alone;
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    if (event.finish) {
      totals_.Add(*event.finish);
      // Hundreds of inputs all say the same.
      const char* reason = NameOf(*event.finish);
      if (totals_.of() == Totals::kChoices || finish_reasons_.empty() ||
          finish_reasons_.back() != reason) {
        finish_reasons_.emplace_back(reason);
      }
    }
    if (!closed_ && failure_.ok()) {
      if (event.finish) failure_ = StatusOf(*event.finish);
      if (event.finish && !event.finish->status.ok()) event.finish.reset();
      buffer_.Push(std::move(event));
      if (max_unread_events() > 0 && buffer_.waiting() > static_cast<size_t>(max_unread_events())) {
        failure_ = absl::ResourceExhaustedError(
            absl::StrCat("the stream was not read: max_unread_events is ",
                         context_.limits.max_unread_events, ", more waited for the client"));
        buffer_.Clear();
      }
      if (!failure_.ok()) cancelled_->store(true);  // the other choices are of no use now
    }
    if (complete()) {
      done_with = std::move(served_);
      if (unlogged_.has_value()) WriteLog(*std::exchange(unlogged_, std::nullopt));
    }
    wake = !closed_ && !scheduled_;
    if (wake) scheduled_ = !alone;
  }
  if (!wake) return;
  // To wake the writer takes longer than its work.
  if (alone) return Advance();
  context_.writer.Post([self = shared_from_this()] {
    {
      const std::lock_guard lock(self->mutex_);
      self->scheduled_ = false;
    }
    self->Advance();
  });
}

void EngineCall::Cancel() {
  cancelled_->store(true);
  std::shared_ptr<const ServedModel> served;
  bool waits = false;
  {
    const std::lock_guard lock(mutex_);
    served = served_;
    waits = !begun_ && !closed_;
    closed_ = closed_ || waits;
  }
  if (waits) {
    const absl::Status status = absl::CancelledError("cancelled while the model was being loaded");
    WriteLog(status);
    return FinishWith(ToGrpcStatus(status));
  }
  if (served != nullptr) served->engine->NotifyCancelled();
}

void EngineCall::ReadTrace(const grpc::CallbackServerContext& rpc) {
  const auto [first, last] = rpc.client_metadata().equal_range("traceparent");
  if (first == last || std::next(first) != last) return;  // two of them say nothing
  trace_ = ParseTraceparent({first->second.data(), first->second.size()});
}

void EngineCall::LogOutcome(const absl::Status& status) {
  if (complete()) {
    WriteLog(status);
  } else {
    unlogged_ = status;
  }
}

void EngineCall::WriteLog(const absl::Status& status) const {
  if (context_.log == nullptr) return;
  RequestRecord record;
  record.id = id_;
  record.client_id = client_request_id_;
  if (!model_name_.empty()) record.model = model_name_;
  record.trace = trace_;
  record.choices = choices_;
  record.usage = totals_.usage();
  record.timings = totals_.timings();
  record.finish_reasons = finish_reasons_;
  record.status = status;
  record.prompt = prompt_;
  context_.log->Write(record);
}

}  // namespace fla
