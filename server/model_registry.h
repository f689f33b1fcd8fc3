// The models of a server: which there are, how they come and how they go.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/memory_plan.h"
#include "server/metrics.h"
#include "server/model_table.h"
#include "server/options.h"
#include "server/served_model.h"
#include "server/wake_signal.h"

namespace fla {

// What a request is told of a model whose load failed: not why, which tells of the server's files.
absl::Status CannotBeLoaded(const std::string& model);

// Owns every loaded model. Requests hold leases; a version that is no longer served is freed when
// its last lease has gone, always on the registry's own thread, the loader, which also does the
// loading. So a swap closes nothing: requests that began on a version end on it.
//
// A new configuration is a candidate at first: it is checked whole, then what it adds or changes is
// loaded beside what is served, and when all of it is there the table is replaced at once. If
// anything goes wrong the candidate is dropped and nothing has changed. Where memory is short, the
// models' options say what may go earlier.
//
// Thread safety: all methods may be called from any thread.
class ModelRegistry {
 public:
  // Hears of each new table, on the thread that made it; must not call the registry.
  using OnChange = std::function<void(const ModelTable&)>;
  using OnLease = std::function<void(absl::StatusOr<ModelLease>)>;
  using OnDone = std::function<void(absl::Status)>;

  // Loads the models that are to be preloaded. Throws std::runtime_error, led by the model's name.
  // `metrics` must outlive this.
  ModelRegistry(const ServerOptions& options, Metrics& metrics, OnChange on_change = {});
  // Ends what still runs. Every lease must go soon after.
  ~ModelRegistry();

  std::shared_ptr<const ModelTable> table() const;

  // The model for a request. `ready` is called once: before this returns where the model is loaded
  // or cannot be had, else later on the loader's thread, when it has been loaded. NOT_FOUND names
  // the models there are, RESOURCE_EXHAUSTED says that too many wait for the load or that memory is
  // short, FAILED_PRECONDITION that it cannot be loaded, UNAVAILABLE that it was unloaded or that
  // the server drains. A request whose `cancelled` (may be null) is set need not be called.
  void Acquire(const std::string& name, std::shared_ptr<const std::atomic<bool>> cancelled,
               OnLease ready);

  // Makes a configuration the live one, in the background; `done` hears how it ended. A later call
  // replaces a candidate that is still loading, which then ends with ABORTED. Of `options`, what
  // concerns models is taken.
  void Apply(const ServerOptions& options, OnDone done);
  // Why a config file never came to Apply; empty: the last one was good. For ListModels.
  void SetConfigError(const std::string& error);
  // Applies the live configuration once more if checkpoints have changed since they were loaded and
  // have come to rest: not changed since the last call.
  void CheckCheckpoints();

  // Loads a model of the configuration, or its newer checkpoint; that after a configuration that is
  // still coming. FAILED_PRECONDITION says why it cannot be loaded.
  void Load(const std::string& name, const OnLease& done);
  // Takes a model out of service: it drains and is freed.
  absl::Status Unload(const std::string& name);

  // True while no engine has failed.
  bool Healthy() const;
  // Refuses new requests and drains all engines at once (see Engine::Drain); true if nothing had to
  // be cut off.
  bool Drain(Clock::time_point deadline);

 private:
  struct Waiter {
    std::string name;                                    // as asked for
    std::shared_ptr<const std::atomic<bool>> cancelled;  // may be null
    OnLease ready;
  };
  // One model of the live config.
  struct Entry {
    std::shared_ptr<const ModelOptions> options;
    std::shared_ptr<ServedModel> served;
    std::string key;        // of what was served last
    bool unloaded = false;  // by Unload
    std::vector<Waiter> waiters;
    std::string seen_version;       // by CheckCheckpoints
    Clock::time_point failed_at{};  // of the last load, if that failed; else the epoch
  };
  struct Candidate {
    struct Part {
      std::shared_ptr<const ModelOptions> options;
      std::string key;
      bool load = false;                    // it must be loaded before the candidate can be live
      std::shared_ptr<ServedModel> served;  // once that is done
    };
    ServerOptions options;
    OnDone done;
    uint64_t number = 0;  // of candidates
    std::vector<Part> parts;
  };
  // A version that takes memory: served, draining, or waiting to be freed.
  struct Loaded {
    const ServedModel* served;
    std::string device;
    int64_t bytes;
  };
  // A model that the loader is to load: of the candidate, or of the live config.
  struct Job {
    std::shared_ptr<const ModelOptions> options;
    bool of_candidate = false;
  };
  enum class Room { kThere, kLater, kNever };

  // model_registry.cc: any thread; with mutex_ held.
  Entry* FindEntry(const std::string& name);            // by name or alias; empty: the default
  Entry* FindEntryNamed(const std::string& name);       // by name
  absl::Status NoEntry(const std::string& name) const;  // what a name without entry is answered
  static ModelLease LeaseOf(const Entry& entry);
  void Retire(Entry& entry);
  void SetFailure(const std::string& name, const std::string& version, const std::string& reason);
  void ClearFailure(const std::string& name);
  void Publish();
  std::vector<Waiter> TakeWaiters();

  // model_loader.cc: the loader's thread; without mutex_.
  void Run();
  // Does one thing; false if there was nothing to do.
  bool Step();
  bool FreeReturned();
  bool PlanNext();
  // Empties next_ and gives its `done` to what was made of it; false if another has come since.
  // With mutex_ held.
  bool TakeNext(Candidate& checked);
  void Plan(Candidate::Part& part);
  void Reject(Candidate candidate, const std::string& model, const std::string& version,
              const absl::Status& status);
  bool Commit();
  std::vector<Job> Jobs();
  Room MakeRoom(const Job& job, std::string& why);
  // With mutex_ held; by the indices of loaded_.
  std::vector<Resident> ResidentsOf(const std::string& device, const Job& job);
  void RunJob(const Job& job);
  void FinishJob(const Job& job, std::shared_ptr<ServedModel> served);
  void FailJob(const Job& job, const std::string& version, const absl::Status& status);
  std::shared_ptr<ServedModel> Share(std::unique_ptr<ServedModel> served);

  Metrics& metrics_;
  const Limits limits_;
  const OnChange on_change_;
  WakeSignal wake_;  // of the loader

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  ServerOptions live_;  // what entries_ were made of
  std::vector<Entry> entries_;
  std::optional<Candidate> next_;       // not checked yet, or being checked
  std::optional<Candidate> candidate_;  // checked, being loaded
  std::shared_ptr<LoadProgress> loading_;
  bool loading_candidate_ = false;  // what `loading_` is of
  uint64_t last_candidate_ = 0;     // its number
  std::vector<ModelTable::Draining> draining_;
  std::vector<ModelTable::Failure> failures_;
  std::string config_error_;
  bool closed_ = false;    // draining: nothing is loaded any more
  bool stopping_ = false;  // the loader ends when all is freed
  std::shared_ptr<const ModelTable> table_;

  // Given back by the last lease, to be freed by the loader. It has a mutex of its own, because a
  // lease may go anywhere.
  std::mutex returned_mutex_;
  std::vector<std::unique_ptr<ServedModel>> returned_;

  std::vector<Loaded> loaded_;  // the loader's own

  std::thread loader_;  // last: starts when all else is there
};

}  // namespace fla
