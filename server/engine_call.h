// One RPC that generates or embeds: takes events from the engine, gives messages to gRPC.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "fla/v1/inference.grpc.pb.h"
#include "server/grpc_access.h"
#include "server/model_registry.h"
#include "server/request.h"
#include "server/request_log.h"
#include "server/result.h"
#include "server/translate.h"
#include "server/translate_embed.h"
#include "server/writer_thread.h"

namespace fla {

// What the server gives to every call. All outlive the calls.
struct CallContext {
  ModelRegistry& registry;
  const Limits& limits;
  WriterThread& writer;
  const GrpcAccess& access;
  const RequestLog* log = nullptr;         // null: requests are not logged
  std::atomic<int>* open_calls = nullptr;  // counts those there are
};

// For the log: text, token ids, or how many vectors.
std::string PromptText(const v1::GenerateRequest& message);
std::string PromptText(const v1::EmbedRequest& message);

// What all such calls share: from a message to queued requests, one a choice or an input, and from
// events to Advance, which the kinds of calls implement. A call keeps itself alive until gRPC is
// done with it; the engine holds it too, as the sink of its requests, for as long as they run.
//
// Thread safety: Deliver comes on the engine's thread, Advance there, on the writer's or gRPC's,
// the reactions on gRPC's; `mutex_` guards what they share. gRPC is never called with it held.
class EngineCall : public EventSink, public std::enable_shared_from_this<EngineCall> {
 public:
  // `choices`: what its requests are.
  EngineCall(const CallContext& context, Totals::Of choices);
  ~EngineCall() override;

  // Validates and queues, as soon as the model is loaded; a request that is refused finishes the
  // call, as an `access` that is not OK does. Does not throw. `id` is the server's own. `message`
  // must live until the call is finished.
  template <typename Message>
  void Start(const Message& message, uint64_t id, std::chrono::system_clock::time_point deadline,
             const absl::Status& access = absl::OkStatus()) {
    translate_ = [&message](const RequestContext& model) { return Translate(message, model); };
    prompt_text_ = [&message] { return PromptText(message); };
    StartWith(message.request_id(), message.model(), id, deadline, access);
  }

  // The trace that the client says the call belongs to; before Start.
  void ReadTrace(const grpc::CallbackServerContext& rpc);

  void Deliver(Event event) final;

 protected:
  // Sends what can be sent now. Called without mutex_. Must not throw.
  virtual void Advance() = 0;
  // Ends the RPC.
  virtual void FinishWith(const grpc::Status& status) = 0;
  // More events than this that wait for the client end the call with RESOURCE_EXHAUSTED. 0: no
  // bound.
  virtual int max_unread_events() const = 0;

  // What went wrong is for the log; a client learns nothing of the server's inside.
  absl::Status InternalError(const std::exception& error) const;
  // The client is gone or has cancelled: frees the slots within one step; ends the call at once if
  // it waits for its model to be loaded.
  void Cancel();
  // To be called with mutex_ when the outcome of an RPC with queued choices is known, once: logs
  // it, when the last choice has ended too, so that the line has all of its tokens.
  void LogOutcome(const absl::Status& status);
  bool complete() const { return totals_.finished() == choices_; }

  const CallContext context_;
  uint64_t id_ = 0;
  std::string client_request_id_;
  std::string prompt_;  // empty unless the log wants it
  std::optional<TraceContext> trace_;
  int choices_ = 0;
  // Of the model, for as long as the call lives; set once, before its first event.
  std::string model_name_;
  std::string model_version_;
  int hidden_size_ = 0;
  std::shared_ptr<const Tokenizer> tokenizer_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);

  std::mutex mutex_;
  // Guarded by mutex_.
  // Until the engine is done with the call: a client that does not read its last messages does
  // not keep a model loaded.
  std::shared_ptr<const ServedModel> served_;
  EventBuffer buffer_;
  Totals totals_;
  absl::Status failure_;  // not OK: the RPC ends with it once the buffer is empty
  std::vector<std::string> finish_reasons_;  // for the log
  bool begun_ = false;                       // the model is there: no more waiting for its load
  bool closed_ = false;                      // gRPC has been told the end
  bool scheduled_ = false;                   // the writer thread will call Advance
  std::optional<absl::Status> unlogged_;     // the outcome, while choices still run

 private:
  void StartWith(const std::string& request_id, const std::string& model, uint64_t id,
                 std::chrono::system_clock::time_point deadline, const absl::Status& access);
  void WriteLog(const absl::Status& status) const;
  void Begin(const absl::StatusOr<ModelLease>& lease,
             std::chrono::system_clock::time_point deadline);
  absl::Status CheckConcurrency() const;
  void CountTooMany(const std::string& model) const;
  absl::Status Submit(const ModelLease& lease, std::chrono::system_clock::time_point deadline);
  // Ends a call that was not queued, unless it has ended.
  void Refuse(const absl::Status& status);
  absl::Status StatusOf(const Finish& finish) const;

  // Of the client's message.
  std::function<absl::StatusOr<std::vector<Request>>(const RequestContext&)> translate_;
  std::function<std::string()> prompt_text_;
  Clock::time_point received_;
  bool deadline_is_the_servers_ = false;  // max_request_seconds, not the client's
};

}  // namespace fla
